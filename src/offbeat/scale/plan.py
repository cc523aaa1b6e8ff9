"""A plan: what varies and what stays, as YAML or a mapping; it expands into tasks, one run each.

    verb: explore
    set: {num_images: 4, directions: 1}        # the same in every task
    grid:                                      # every combination
      subject: [handbag, chair]
      seed: {from: 0, num: 3}
    list: [{novelty: 2}, {quantile: 0.99}]     # each of these
    sample: {num: 5, seed: 0, from: {config.learning_rate: {low: 0.001, high: 0.1, log: true}}}
    include: common.yaml                       # another file of the same folder or below

The number of tasks is the product of all four. A name with a dot is a setting of the method.
Nothing is expanded before it is asked for: a plan of many tasks takes no memory.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml

from offbeat import registry
from offbeat.checkpoints.known.unclip import is_bundled
from offbeat.checkpoints.models import inspect_model
from offbeat.checkpoints.open import default_backbone
from offbeat.checkpoints.placement import Placement
from offbeat.core.checks import check_whole
from offbeat.core.rng import stream
from offbeat.errors import CheckpointError, ConfigError, UnknownNameError
from offbeat.files.disk import digest_of, plain, safe_name
from offbeat.files.labels import versions
from offbeat.methods.settings import configured
from offbeat.verbs.dream import dream
from offbeat.verbs.explore import explore
from offbeat.verbs.fuse import fuse, grid, sweep
from offbeat.verbs.generate import generate
from offbeat.verbs.paint import paint
from offbeat.verbs.render import render
from offbeat.verbs.train import train

VERBS = {
    verb.__name__: verb
    for verb in (dream, explore, fuse, generate, grid, paint, render, sweep, train)
}
"""What a task may call: each writes one run folder."""
OURS = ("out", "resume", "observe")
"""Arguments that a sweep decides itself."""
SLOW = ("backbone", "device", "method")
"""Axes that change last, so that a worker keeps its checkpoint."""
PARTS = ("verb", "title", "set", "grid", "list", "sample", "include")
MAX_TASKS = 1_000_000
MAX_BYTES = 2**20
"""Of a plan's file."""


@dataclass(frozen=True, slots=True)
class Task:
    """One call of a verb, which writes one run folder."""

    number: int
    verb: str
    arguments: Mapping[str, Any]
    axes: Mapping[str, Any]
    """What differs between the tasks of the plan, by dotted name."""
    key: str
    """A digest of everything that the result depends on."""

    @property
    def folder(self) -> str:
        """Name of its run folder: what it is, and the key that keeps it apart."""
        words = [v for v in self.axes.values() if isinstance(v, str | int | float)]
        about = "-".join("".join(c if c.isalnum() else " " for c in str(w)).strip() for w in words)
        return f"{safe_name(about[:60].replace(' ', '-') or self.verb)}-{self.key[:12]}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What varies and what stays, checked when it is made."""

    verb: str
    title: str = ""
    base: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Name to values, the slowest first."""
    entries: tuple[Mapping[str, Any], ...] = ({},)
    draws: Mapping[str, Any] = field(default_factory=dict)
    """Name to a list, or a range with ``low``, ``high``, ``log`` and ``whole``."""
    num_draws: int = 1
    draw_seed: int = 0
    placement: Placement | None = None
    """Where every task runs; part of the keys, since numbers depend on it."""

    def __post_init__(self) -> None:
        places = [
            set(self.base),
            set(self.axes),
            set(self.draws),
            {n for e in self.entries for n in e},
        ]
        names = [name for place in places for name in place]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"{twice[0]}: is in two parts of the plan; leave it in one")
        if len(self) > MAX_TASKS:
            sizes = " x ".join(f"{len(v):,} {n}" for n, v in self.axes.items()) or "its parts"
            raise ConfigError(
                f"the plan has {len(self):,} tasks ({sizes}), at most {MAX_TASKS:,} are run: "
                "make a grid smaller, or take `sample` of it"
            )
        for name, values in (("list", self.entries), *self.axes.items()):
            seen = [] if isinstance(values, range) else [_canonical(name, v) for v in values]
            if len(set(seen)) < len(seen):
                raise ConfigError(f"{name}: a value is there twice; remove one")
        for task in self._samples():
            check_arguments(task.verb, task.arguments)

    def __len__(self) -> int:
        """Return the number of tasks."""
        return math.prod(map(len, self.axes.values())) * len(self.entries) * self.num_draws

    def __iter__(self) -> Iterator[Task]:
        """Yield the tasks in order; each is made when it is asked for."""
        return map(self.task, range(len(self)))

    def task(self, number: int) -> Task:
        """Return one task."""
        values, left = {}, number
        left, draw = divmod(left, self.num_draws)
        left, entry = divmod(left, len(self.entries))
        for name in reversed(list(self.axes)):
            left, at = divmod(left, len(self.axes[name]))
            values[name] = self.axes[name][at]
        axes = {name: values[name] for name in self.axes} | dict(self.entries[entry])
        axes |= {name: self._drawn(name, draw) for name in self.draws}
        arguments = _nested({**self.base, **axes})
        return Task(number, self.verb, arguments, axes, self._key(arguments))

    def place(self, at: Mapping[str, int], inner: int = 0) -> int:
        """Return the number of a task by its place on some axes, 0 on all others.

        Args:
            at: Axis to place.
            inner: Number among the tasks of these: of the list and the draws.
        """
        number = 0
        for name, values in self.axes.items():
            number = number * len(values) + at.get(name, 0)
        return number * len(self.entries) * self.num_draws + inner

    @cached_property
    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["axes"] = {
            name: {"from": v.start, "num": len(v)} if isinstance(v, range) else list(v)
            for name, v in self.axes.items()
        }
        placed = {} if self.placement is None else asdict(self.placement)
        # those that name no files keep the keys that they had before there were such
        values["placement"] = {name: placed[name] for name in placed if placed[name] != ()} or None
        return dict(plain(values))

    def _beside(self) -> list[str]:
        """Return the LoRA and token files that every task is drawn with."""
        if self.placement is None:
            return []
        lora, tokens = self.placement.lora, self.placement.embeddings
        return [*(file.path for file in lora), *(file.path for file in tokens)]

    def _drawn(self, name: str, number: int) -> Any:
        spec, noise = self.draws[name], stream(self.draw_seed, "plan", name, number)
        if not isinstance(spec, Mapping):
            return spec[int(torch.randint(len(spec), (), generator=noise))]
        share = float(torch.rand((), generator=noise, dtype=torch.float64))
        low, high = float(spec["low"]), float(spec["high"])
        value = low * (high / low) ** share if spec.get("log") else low + (high - low) * share
        return round(value) if spec.get("whole") else float(f"{value:.6g}")

    def _key(self, arguments: Mapping[str, Any]) -> str:
        full = {
            name: arguments.get(name, parameter.default)
            for name, parameter in _parameters(self.verb).items()
            if name not in (*OURS, "backbone", "device")
            and (name in arguments or parameter.default is not inspect.Parameter.empty)
        }
        conditions = {
            "verb": self.verb,
            "arguments": plain(full),
            "backbone": _fingerprint(source_of(self.verb, arguments)),
            "device": arguments.get("device"),
            "placement": self.as_json["placement"],
            "versions": _versions(),
            "files": {text: _content(text) for text in sorted({*_paths(full), *self._beside()})},
        }
        return digest_of(_canonical("task", conditions).encode())

    def _samples(self) -> Iterator[Task]:
        """Yield tasks that have every value of every axis, all else as in the first."""
        if not len(self):
            raise ConfigError("the plan has no task: a list in it is empty")
        step = self.num_draws
        yield from (self.task(number) for number in range(min(step, 100)))
        yield from (self.task(number * step) for number in range(len(self.entries)))
        step *= len(self.entries)
        for name in reversed(list(self.axes)):
            size = len(self.axes[name])
            ends = (0, size - 1) if isinstance(self.axes[name], range) else range(size)
            yield from (self.task(at * step) for at in ends)
            step *= size


@lru_cache(maxsize=16)
def _parameters(verb: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(VERBS[verb]).parameters


def source_of(verb: str, arguments: Mapping[str, Any]) -> str:
    """Return the checkpoint that a call loads; empty where only its source says it."""
    parameters = _parameters(verb)
    named = arguments.get("backbone", parameters["backbone"].default)
    if named is not None:
        return str(named)
    if verb == "generate" and not arguments.get("concept"):
        return "pocket"  # as a session loads without a name
    if "method" not in parameters:
        return ""
    return default_backbone(str(arguments.get("method", parameters["method"].default)))


def check_arguments(verb: str, arguments: Mapping[str, Any]) -> None:
    """Refuse what a verb does not take: unknown or missing arguments, or settings of its method.

    Raises:
        ConfigError: If an argument cannot be used, or one is missing.
        UnknownNameError: If there is no argument or method of this name.
    """
    parameters = _parameters(verb)
    for name in arguments:
        if name in OURS:
            raise ConfigError(f"{name}: a sweep decides it itself; leave it out of the plan")
        if name not in parameters:
            known = [other for other in parameters if other not in OURS]
            raise UnknownNameError(f"setting of {verb}", name, known)
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            raise ConfigError(f"{verb}: needs {name}, and the plan does not say it")
    if "seed" in parameters:
        check_whole("seed", arguments.get("seed", 0), 0)
    settings = arguments.get("config") or {}
    if "method" not in parameters:
        return
    name = str(arguments.get("method", parameters["method"].default))
    method = registry.find("method", name)
    if (kind := getattr(method, "config_class", None)) is not None:
        if not isinstance(settings, Mapping):
            raise ConfigError(f"config: expected settings of {name} by name, got {settings!r}")
        configured(kind, name, settings)


# --- reading


def read_plan(source: str | Path | Mapping[str, Any], placement: Placement | None = None) -> Plan:
    """Read a plan from a YAML file or a mapping, with what it includes.

    Raises:
        ConfigError: If it is no plan, with the entry and what was expected.
        UnknownNameError: If a verb, a setting or a method is unknown.
    """
    if isinstance(source, Mapping):
        if "include" in source:
            raise ConfigError("include: only a file can include another")
        return _plan(dict(source), placement)
    file = Path(source)
    try:
        return _plan(_included(file, file.resolve().parent, ()), placement)
    except (ConfigError, UnknownNameError) as error:
        error.args = (f"{file}: {error}",)
        raise


def _included(file: Path, top: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    path = file.resolve()
    if path in above:
        names = " includes ".join(part.name for part in (*above[above.index(path) :], path))
        raise ConfigError(f"include: {names}: a circle; remove one of them")
    if not path.is_relative_to(top):
        raise ConfigError(f"include: {file.name} leads out of the plan's folder {top}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{file}: expected a plan of at most 1 MiB")
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; expected a plan in YAML") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        sentence = " ".join(str(error).split())
        raise ConfigError(f"{file.name}: cannot be read as YAML ({sentence})") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{file.name}: expected a mapping, got {type(raw).__name__}")
    merged: dict[str, Any] = {}
    names = raw.pop("include", ())
    for name in [names] if isinstance(names, str) else names:
        parts = PurePosixPath(str(name))
        if parts.is_absolute() or ".." in parts.parts:
            raise ConfigError(f"include: {name} leads out of the plan's folder {top}")
        merged = _merged(merged, _included(path.parent / str(name), top, (*above, path)))
    return _merged(merged, raw)


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return both, the second before the first; of ``set`` and ``grid`` name by name."""
    both = {**first, **second}
    for name in ("set", "grid"):
        if isinstance(first.get(name), dict) and isinstance(second.get(name), dict):
            both[name] = {**first[name], **second[name]}
    return both


def _plan(raw: dict[str, Any], placement: Placement | None) -> Plan:
    for name in raw:
        if name not in PARTS:
            raise UnknownNameError("part of a plan", str(name), PARTS)
    verb = str(raw.get("verb", ""))
    if verb not in VERBS:
        raise UnknownNameError("verb", verb, VERBS)
    parts = {name: raw.get(name) or {} for name in ("set", "grid", "sample")}
    for name, part in parts.items():
        if not isinstance(part, Mapping):
            raise ConfigError(f"{name}: expected a mapping, got {type(part).__name__}")
    entries = raw.get("list", [{}])
    if not isinstance(entries, list) or not all(isinstance(one, Mapping) for one in entries):
        raise ConfigError(f"list: expected a list of mappings, got {entries!r}")
    axes = {str(name): _values(str(name), v) for name, v in parts["grid"].items()}
    order = sorted(axes, key=lambda name: SLOW.index(name) if name in SLOW else len(SLOW))
    sample = dict(parts["sample"])
    draws = sample.pop("from", {})
    num, seed = (sample.pop(name, start) for name, start in (("num", 1), ("seed", 0)))
    if sample or not isinstance(draws, Mapping):
        raise ConfigError(f"sample: expected num, seed and from, got {parts['sample']!r}")
    check_whole("sample.num", num, 1)
    check_whole("sample.seed", seed, 0)
    return Plan(
        verb=verb,
        title=str(raw.get("title", "")),
        base=_flat(parts["set"]),
        axes={name: axes[name] for name in order},
        entries=tuple(_flat(one) for one in entries),
        draws={str(name): _range(str(name), spec) for name, spec in draws.items()},
        num_draws=num,
        draw_seed=seed,
        placement=placement,
    )


def _values(name: str, values: Any) -> Sequence[Any]:
    if isinstance(values, Mapping) and values.keys() == {"from", "num"}:
        check_whole(f"{name}.from", values["from"], 0)
        check_whole(f"{name}.num", values["num"], 1)
        return range(values["from"], values["from"] + values["num"])
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{name}: expected a list of values, or from and num, got {values!r}")
    return tuple(values)


def _range(name: str, spec: Any) -> Any:
    if isinstance(spec, list) and spec:
        return tuple(spec)
    if isinstance(spec, Mapping) and {"low", "high"} <= spec.keys() <= {
        "low",
        "high",
        "log",
        "whole",
    }:
        low, high = spec["low"], spec["high"]
        numbers = all(isinstance(v, int | float) and math.isfinite(v) for v in (low, high))
        if numbers and low < high and (low > 0 or not spec.get("log")):
            return dict(spec)
    raise ConfigError(
        f"{name}: expected a list, or low and high with low below high (above 0 with log), "
        f"got {spec!r}"
    )


def _flat(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments by dotted name: settings of the method stand beside the others."""
    flat = {str(name): value for name, value in task.items() if name != "config"}
    config = task.get("config") or {}
    if not isinstance(config, Mapping):
        raise ConfigError(f"config: expected settings by name, got {config!r}")
    return flat | {f"config.{name}": value for name, value in config.items()}


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as a verb takes them."""
    nested = {name: value for name, value in flat.items() if not name.startswith("config.")}
    config = {n.removeprefix("config."): v for n, v in flat.items() if n.startswith("config.")}
    return {**nested, "config": config} if config else nested


def _canonical(name: str, value: Any) -> str:
    try:
        return json.dumps(plain(value), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{name}: expected numbers, texts, lists and mappings ({error})"
        ) from error


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return versions()


@lru_cache(maxsize=64)
def _fingerprint(source: str) -> str | None:
    """Return a checkpoint's name with its digest; the name alone where it is not on this machine.

    A run folder keeps the digest that was loaded, and refuses another one.
    """
    if not (is_bundled(source) or (source and Path(source).expanduser().exists())):
        return source or None
    try:
        return f"{source}@{inspect_model(source).fingerprint}"
    except (CheckpointError, UnknownNameError):  # loading it says what is wrong
        return source


def _paths(value: Any) -> set[str]:
    """Return every text in arguments that is a file or folder here."""
    if isinstance(value, Mapping):
        return {path for part in value.values() for path in _paths(part)}
    if isinstance(value, list | tuple):
        return {path for part in value for path in _paths(part)}
    text = str(value) if isinstance(value, str | Path) else ""
    return {text} if 0 < len(text) < 1000 and "\0" not in text and _exists(text) else set()


@lru_cache(maxsize=1024)
def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:
        return False


@lru_cache(maxsize=1024)
def _content(text: str) -> str:
    """Return a digest of a file, or of all in a folder."""
    path = Path(text)
    if path.is_file():
        return digest_of(path.read_bytes())
    if (done := path / "done.json").is_file():  # a run: it holds the digest of every file
        return digest_of(done.read_bytes())
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return digest_of(*(part for f in files for part in (f.name.encode(), f.read_bytes())))
