"""Settings with declared ranges and help texts, and the base class of methods.

A setting states its default, range, choices and help once, in its field. The base class checks
them; ``--set``, the studio and the docs read the same fields, those of a plug-in too.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from typing import (
    Any,
    ClassVar,
    Generic,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from offbeat import registry
from offbeat.core.checks import check_range
from offbeat.core.modes import in_own_modes
from offbeat.errors import ConfigError
from offbeat.metrics.base import open_metric
from offbeat.protocols import Takes, TextBackbone
from offbeat.types import Trained

Config = TypeVar("Config")
INF = float("inf")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a setting may be, and what it does."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    """A lower limit that is itself not allowed."""
    below: float | None = None
    """An upper limit that is itself not allowed."""
    choices: tuple[Any, ...] = ()
    help: str = ""

    def check_number(self, name: str, value: float) -> None:
        """Raise unless a number lies in the range; NaN never does.

        Raises:
            RangeError: With the number and the range.
        """
        low = self.above if self.above is not None else self.at_least
        high = self.below if self.below is not None else self.at_most
        check_range(
            name,
            value,
            -INF if low is None else low,
            INF if high is None else high,
            open_low=self.above is not None,
            open_high=self.below is not None,
        )


def setting(
    default: Any,
    at_least: float | None = None,
    at_most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[Any, ...] = (),
    help: str = "",
) -> Any:
    """Return a field of a ``Settings`` class: its default, its limits, and one line of help.

    >>> @dataclass(frozen=True)
    ... class Mine(Settings):
    ...     num_steps: int = setting(2500, at_least=1, help="Optimizer steps.")
    """
    rule = Rule(at_least, at_most, above, below, choices, help)
    return field(default=default, metadata={"setting": rule})


def denoising_steps() -> Any:
    """Return the setting ``num_inference_steps``, by default the checkpoint's own."""
    return setting(None, 1, 1000, help="Denoising steps; None: those of the checkpoint.")


def guidance() -> Any:
    """Return the setting ``guidance_scale``, by default the checkpoint's own."""
    return setting(None, 0, 1000, help="Guidance; None: that of the checkpoint.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Base class of a method's settings: a frozen dataclass that checks itself."""

    method: ClassVar[str] = ""
    """The method's name in the registry."""

    def __post_init__(self) -> None:
        hints = _hints(cast(Any, type(self)))
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, list) and get_origin(hints[item.name]) is tuple:
                value = tuple(value)  # JSON and --set have lists only
                object.__setattr__(self, item.name, value)
            check_value(item.name, value, hints[item.name], rule_of(item))
        self.check()

    def check(self) -> None:
        """Raise if settings do not fit each other; called after each is checked alone."""

    @classmethod
    def of(cls: type[Config], given: Mapping[str, Any]) -> Config:
        """Return settings by name, as a file or a command gives them.

        Raises:
            ConfigError: If one is unknown, or of another kind.
            RangeError: If one is out of its range.
        """
        return configured(cls, cast(Any, cls).method, given)

    @classmethod
    def for_card(cls: type[Config], card: Mapping[str, Any], **given: Any) -> Config:
        """Return what suits a checkpoint by its card; ``given`` settings go before that.

        Raises:
            ConfigError: If one is unknown, or of another kind.
            RangeError: If one is out of its range.
        """
        settings = cast(Any, cls)
        return cast(Config, settings.of({**settings.card_settings(card, given), **given}))

    @classmethod
    def card_settings(cls, card: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a card says of the method; ``given`` is what will go before that."""
        return on_card(card, cls.method)


ACTIONS = frozenset(
    {
        "measure",
        "fit",
        "fuse",
        "dream",
        "evolve",
        "train",
        "draw",
        "mix",
        "morph",
        "paint",
        "invert",
    }
)
"""Functions of a method that compute."""


class Method(Generic[Config]):
    """Base class of methods: it holds the settings and declares what a method can do.

    A plug-in need not use it. A method has those of these functions that its verbs need. Each takes
    the checkpoint first, then a ``Request`` whose ``seed`` alone decides every draw, and reports to
    ``on_step``; ``resume`` is a state to go on from, a ``Step.snapshot()``.

    - ``fit(backbone, request, *, judge, on_step, resume)``, ``fuse(backbone, request, *, trained,
      judge, on_step, resume)`` and ``dream(backbone, request, index, *, trained, judge, on_step,
      resume)`` return a ``Concept``: of the subject, of the words in ``request.weights``, or dream
      number ``index``.
    - ``evolve(backbone, parents, request, *, weights, on_step, resume)`` returns the ``Concept`` of
      a child of pictures; ``parents`` are image embeddings, ``[n, D]`` each.
    - ``train(backbone, vocabulary, *, seed, judge, on_step, resume)`` learns once for all concepts
      and returns ``Trained``, which ``fuse`` and ``dream`` take as ``trained``.
    - ``draw`` and ``mix`` return pictures: see ``methods.pictures``. ``morph(..., num=F)``, if it
      is there, draws the path between two sources as a whole, ``[N, F, 3, H, W]``.
    - ``paint(backbone, request, art, *, content, way, start, on_step)`` returns pictures. A method
      with ``invert(backbone, image)``, ``reconstruct(backbone, way)`` and ``inversion_settings()``
      gets the inversion of the artwork as ``way``, which is kept between runs.
    """

    name: str
    """The name in the registry."""
    config_class: type[Config]
    needs: type
    """The protocol that a checkpoint must fulfil."""
    verbs: frozenset[str]
    """The commands that it serves: see ``VERBS``."""
    gradient_verbs: frozenset[str] = frozenset()
    """Those in which it follows gradients through the checkpoint, which float16 is refused for."""
    result: Literal["concept", "pictures"] = "concept"
    """What it finds: a concept that prompts can use, or pictures only."""
    takes_weights = False
    """Whether the shares of what is fused matter."""
    takes: Takes = (("word",), ("word",))
    """What the first and the second source may be."""
    from_one_pool = False
    """Whether all pictures are chosen from one pool, so that each call costs the whole pool."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let what a method does run in torch modes of its own, whatever the caller's are."""
        super().__init_subclass__(**kwargs)
        for name in ACTIONS & vars(cls).keys():
            setattr(cls, name, in_own_modes(vars(cls)[name]))

    def __init__(self, config: Config | None = None) -> None:
        self.config = self.config_class() if config is None else config


VERBS = ("explore", "fuse", "sweep", "grid", "evolve", "dream", "paint", "train")


def verbs_of(method: Any) -> frozenset[str]:
    """Return the commands that a method serves, from its class or an object of it.

    A plug-in that declares none is read by its functions.
    """
    declared = getattr(method, "verbs", None)
    if declared is not None:
        return frozenset(declared)
    weights = bool(getattr(method, "takes_weights", False))
    able = {
        "explore": hasattr(method, "draw"),
        "fuse": hasattr(method, "fuse") or hasattr(method, "mix"),
        "sweep": hasattr(method, "mix") or (weights and hasattr(method, "fuse")),
        "grid": weights and hasattr(method, "fuse"),
        **{verb: hasattr(method, verb) for verb in ("evolve", "dream", "paint", "train")},
    }
    return frozenset(verb for verb, can in able.items() if can)


def result_of(method: Any) -> str:
    """Return whether a method finds a ``concept`` or only ``pictures``."""
    return str(getattr(method, "result", "pictures" if hasattr(method, "mix") else "concept"))


def rule_of(item: Any) -> Rule:
    """Return what a dataclass field declares; nothing if it is no ``setting``."""
    return cast(Rule, item.metadata.get("setting", Rule()))


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def check_value(name: str, value: Any, hint: Any, rule: Rule) -> None:
    """Raise unless a value is of a field's type and inside its rule.

    Raises:
        ConfigError: If it is of another type, or none of the choices.
        RangeError: If a number is out of its range.
    """
    kinds = _kinds(hint)
    if value is None and type(None) in kinds:
        return
    choices = rule.choices or tuple(
        choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)
    )
    if choices:
        if value not in choices:
            known = ", ".join(map(str, choices))
            raise ConfigError(f"{name}: expected one of {known}, got {value!r}")
        return
    for kind, expected, fits in _KINDS:
        if kind in [get_origin(member) or member for member in kinds]:
            if not fits(value):
                raise ConfigError(f"{name}: expected {expected}, got {value!r}")
            if kind in (int, float):
                rule.check_number(name, value)
            return


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_KINDS: tuple[tuple[type, str, Any], ...] = (
    (float, "a number", _is_number),
    (int, "a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    (bool, "true or false", lambda value: isinstance(value, bool)),
    (str, "a text", lambda value: isinstance(value, str)),
    (
        tuple,
        "a list of texts",
        lambda value: isinstance(value, tuple) and all(isinstance(text, str) for text in value),
    ),
)
"""Each type of a setting, in words, and its test."""


def schema_of(cls: type, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as a JSON schema, with the defaults that suit a checkpoint's card.

    It reads the fields of any dataclass, so a plug-in's settings show like those of Offbeat.
    """
    config = cast(Any, cls).for_card(card) if hasattr(cls, "for_card") else cls()
    hints = _hints(cls)
    properties: dict[str, Any] = {}
    for item in fields(cls):
        rule, kinds = rule_of(item), _kinds(hints[item.name])
        choices = rule.choices or tuple(
            choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)
        )
        about: dict[str, Any] = {
            "minimum": rule.at_least,
            "maximum": rule.at_most,
            "exclusiveMinimum": rule.above,
            "exclusiveMaximum": rule.below,
            "enum": list(choices) or None,
        }
        about = {name: value for name, value in about.items() if value is not None}
        names = [_JSON[base] for kind in kinds if (base := get_origin(kind) or kind) in _JSON]
        each = [{"type": name, **about} for name in names if name != "null"]
        shape = each[0] if len(each) == 1 else {}
        if type(None) in kinds:
            shape = {"anyOf": [*each, {"type": "null"}]}
        properties[item.name] = {**shape, "default": getattr(config, item.name)}
        if rule.help:
            properties[item.name]["description"] = rule.help
    return {"type": "object", "properties": properties}


_JSON: dict[Any, str] = {
    bool: "boolean", int: "integer", float: "number", str: "string", Literal: "string",
    tuple: "array", list: "array", type(None): "null",
}  # fmt: skip


def on_card(card: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what a card says of a method, by the names of its settings."""
    return dict(card.get("methods", {}).get(name, {}))


def configured(cls: type[Config], name: str, given: Mapping[str, Any]) -> Config:
    """Return settings of class ``cls`` by name, as a file or a command gives them.

    Raises:
        ConfigError: If a setting is unknown, or of another kind.
    """
    known = [item.name for item in fields(cls)]  # type: ignore[arg-type]
    for unknown in given.keys() - set(known):
        raise ConfigError(f"{unknown}: expected a setting of {name}, one of {known}")
    try:
        return cls(**given)
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"settings of {name}: {error}") from error


def with_metric(method: Any, backbone: TextBackbone) -> Any:
    """Return a method with the metric that its settings name; most name none.

    Raises:
        UnknownNameError: If there is no such metric.
        ConfigError: If the method cannot use it.
    """
    wanted = getattr(method, "wants_metric", None)
    if wanted is None:
        return method
    return method.with_metric(open_metric(wanted, backbone))


def make_method(name: str, backbone: TextBackbone, settings: dict[str, Any] | None) -> Any:
    """Return a method with what suits the checkpoint, and ``settings`` before that.

    Raises:
        UnknownNameError: If there is no such method.
        ConfigError: If it has no such setting, or one is out of its range.
    """
    method = registry.find("method", name)
    config = getattr(method, "config_class", None)
    if config is None:
        if settings:
            raise ConfigError(f"settings: {name} takes none, got {', '.join(settings)}")
        return method()
    return method(config.for_card(backbone.card, **(settings or {})))


def config_of(method: Any) -> dict[str, Any]:
    """Return a method's settings as a run keeps them; none of a plug-in that has none."""
    config = getattr(method, "config", None)
    return asdict(config) if is_dataclass(config) else {}  # type: ignore[arg-type]


def check_trained(trained: Trained | None, name: str, *tensors: str) -> Trained:
    """Return what a method learned once; raise if it is absent, another's, or incomplete.

    Raises:
        ConfigError: With what came.
    """
    got = "none" if trained is None else f"one of {trained.method}"
    if trained is not None and trained.method == name:
        missing = [tensor for tensor in tensors if tensor not in trained.tensors]
        if not missing:
            return trained
        got = f"one without {', '.join(missing)}"
    raise ConfigError(f"trained: expected what `offbeat train {name}` writes, got {got}")


def steps_of(method: Any) -> int:
    """Return how many optimizer steps a method takes at most; 1 if it says none."""
    steps: int = getattr(getattr(method, "config", None), "num_steps", 1)
    return int(getattr(method, "num_steps", steps))
