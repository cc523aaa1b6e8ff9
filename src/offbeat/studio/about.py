"""What this server has: checkpoints, methods with their settings, judges, words, limits."""

from __future__ import annotations

import ast
import inspect
import logging
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Any

import offbeat
from offbeat import registry
from offbeat.checkpoints.open import adapter_of
from offbeat.errors import OffbeatError
from offbeat.files.labels import versions
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.methods.settings import make_method
from offbeat.protocols.capabilities import offers
from offbeat.runs.trained import find_trained

log = logging.getLogger("offbeat.studio")
BUNDLED = ("pocket", "pocket-sd")
SEARCH = "low-probability"
JUDGES = ("auto", "none", "clip", "classifier")
"""Those that need no weights but the checkpoint's own."""
FORMATS = ("diffusers", "a1111", "comfyui", "sdxl", "kohya")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that requests may name, and where it is."""

    name: str
    source: str
    kind: type
    """Its adapter's class: what it can do."""
    card: Mapping[str, Any]
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What methods that were trained on it know."""


@cache
def bundled() -> dict[str, Any]:
    """Return the bundled checkpoints by name, loaded."""
    return {name: offbeat.load_backbone(name, device="cpu") for name in BUNDLED}


class Catalogue:
    """What requests may ask for: checkpoints, methods, judges and words, all read at the start."""

    def __init__(self, default: str = "pocket", *, source: str | None = None) -> None:
        self.default = default
        self.checkpoints: dict[str, Checkpoint] = {}
        for name, model in bundled().items():
            self.checkpoints[name] = Checkpoint(
                name, name, type(model), model.card, _known_words(model)
            )
        if default not in self.checkpoints:
            kind = adapter_of(source or default)
            self.checkpoints[default] = Checkpoint(default, source or default, kind, {})
        self.methods = {
            name: found for name in registry.names("method") if (found := _method(name))
        }

    def learn(self, card: Mapping[str, Any]) -> None:
        """Add what the server's own checkpoint reports once it is loaded."""
        if self.default not in BUNDLED and card:
            self.checkpoints[self.default] = replace(self.checkpoints[self.default], card=card)

    def verbs_of(self, method: str) -> list[str]:
        """Return what a method can be asked for."""
        found = self.methods.get(method)
        if found is None:
            return []
        able = {
            "explore": method == SEARCH or hasattr(found, "draw"),
            "fuse": hasattr(found, "fuse") or hasattr(found, "mix"),
            "sweep": getattr(found, "takes_weights", False) or hasattr(found, "mix"),
            "grid": hasattr(found, "fuse") and getattr(found, "takes_weights", False),
            "dream": hasattr(found, "dream"),
            "paint": hasattr(found, "paint"),
        }
        return [verb for verb, can in able.items() if can]

    def checkpoints_of(self, method: str) -> list[str]:
        """Return the checkpoints that a method works on; the server's own first."""
        found = self.methods[method]
        needs = getattr(found, "needs", None)
        names = sorted(self.checkpoints, key=lambda name: name != self.default)
        return [
            name
            for name in names
            if (needs is None or offers(self.checkpoints[name].kind, needs))
            and (not hasattr(found, "train") or method in self.checkpoints[name].words)
        ]

    def as_json(self, limits: Mapping[str, int]) -> dict[str, Any]:
        """Return what ``GET /about`` answers."""
        return {
            "version": versions()["offbeat"],
            "backbones": [self._backbone(one) for one in self.checkpoints.values()],
            "methods": [self._method(name) for name in self.methods if self.verbs_of(name)],
            "judges": list(JUDGES),
            "formats": list(FORMATS),
            "limits": dict(limits),
        }

    def _backbone(self, one: Checkpoint) -> dict[str, Any]:
        card = one.card
        able = {verb for name in self.methods if one.name in self.checkpoints_of(name)
                for verb in self.verbs_of(name)}  # fmt: skip
        able |= {"generate", "render", "walk", "import"}
        if one.name in BUNDLED and one.words:
            able.add("sketch")
        return {
            "name": one.name,
            "default": one.name == self.default,
            "height": card.get("height"),
            "width": card.get("width"),
            "capabilities": sorted(able),
            "subjects": list(card.get("subjects", ())),
            "words": list(card.get("concepts", ())),
            "max_prompt_tokens": card.get("max_prompt_tokens"),
            "prompt_template": card.get("prompt_template"),
        }

    def _method(self, name: str) -> dict[str, Any]:
        found, works = self.methods[name], self.checkpoints_of(name)
        words = self.checkpoints[works[0]].words.get(name, ()) if works else ()
        card = self.checkpoints[works[0]].card if works else {}
        return {
            "name": name,
            "verbs": self.verbs_of(name),
            "takes": _takes(found),
            "weights": bool(getattr(found, "takes_weights", False)),
            "summary": _summary(found),
            "backbones": works,
            "words": list(words),
            "settings": settings_of(name, found, card),
        }


def config_of(method: str, found: Any) -> type | None:
    """Return the class of a method's settings."""
    if method == SEARCH:
        return LowProbabilityConfig
    return getattr(found, "config_class", None)


def settings_of(method: str, found: Any, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's settings as a JSON schema, with defaults as they suit a checkpoint."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    config = config_of(method, found)
    if config is None or not is_dataclass(config):
        return {"type": "object", "properties": {}}
    try:
        schema = TypeAdapter(config).json_schema()
    except PydanticUserError:
        return {"type": "object", "properties": {}}
    module = sys.modules[config.__module__]
    own = config()
    if hasattr(config, "for_card"):
        own = config.for_card(card)
    said = _docstrings(config)
    properties = schema.get("properties", {})
    for one in fields(config):
        about = properties.setdefault(one.name, {})
        about["default"] = getattr(own, one.name)
        if one.name in said:
            about["description"] = said[one.name]
        if one.name in (ranges := getattr(module, "_RANGES", {})):
            about["minimum"], about["maximum"] = ranges[one.name]
        if one.name in (choices := getattr(module, "_CHOICES", {})):
            about["enum"] = list(choices[one.name])
    return {"type": "object", "properties": properties}


def _docstrings(config: type) -> dict[str, str]:
    """Return the docstring under each field in the source."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    found, last = {}, ""
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            last = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and last:
            found[last] = " ".join(str(node.value.value).replace("``", "").split())
            last = ""
    return found


def _summary(found: Any) -> str:
    module = sys.modules.get(getattr(found, "__module__", ""))
    text = (inspect.getdoc(module) if module else None) or inspect.getdoc(found) or ""
    return text.split("\n\n")[0].split("\nSource")[0].replace("\n", " ").replace("``", "")


def _takes(found: Any) -> list[str]:
    kinds = {kind for part in getattr(found, "takes", ()) for kind in part}
    if hasattr(found, "evolve"):
        kinds |= {"word", "picture"}
    return [name for kind, name in (("word", "words"), ("picture", "pictures"))
            if kind in (kinds or {"word"})]  # fmt: skip


def _method(name: str) -> Any:
    try:
        return registry.find("method", name)
    except OffbeatError:  # a plug-in that cannot be imported
        return None


def _known_words(model: Any) -> dict[str, tuple[str, ...]]:
    """Return the words of each method that was trained on a checkpoint."""
    found = {}
    for name in model.card.get("trained", {}):
        try:
            trained, _ = find_trained(make_method(name, model, None), model, None)
        except OffbeatError as error:  # of other weights: the method is not offered
            log.warning("%s", error)
            continue
        if trained is not None:
            found[name] = trained.vocabulary
    return found
