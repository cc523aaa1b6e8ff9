"""What this server has: checkpoints, methods with their settings, judges, words, limits."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cache
from typing import Any

import offbeat
from offbeat import registry
from offbeat.checkpoints.open import adapter_of
from offbeat.errors import OffbeatError
from offbeat.files.labels import versions
from offbeat.methods.settings import make_method, schema_of
from offbeat.methods.settings import verbs_of as declared_verbs
from offbeat.protocols.capabilities import offers
from offbeat.runs.trained import find_trained

log = logging.getLogger("offbeat.studio")
BUNDLED = ("pocket", "pocket-sd")
SEARCH = "low-probability"
JUDGES = ("auto", "none", "clip", "classifier")
"""Those that need no weights but the checkpoint's own."""
JOBS = ("explore", "fuse", "sweep", "grid", "dream", "paint")
"""Commands that a browser may ask a method for."""
FORMATS = ("common", "diffusers", "a1111", "comfyui", "sdxl", "kohya")


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
            name: about for name in registry.names("method") if (about := _method(name))
        }

    def learn(self, card: Mapping[str, Any]) -> None:
        """Add what the server's own checkpoint reports once it is loaded."""
        if self.default not in BUNDLED and card:
            self.checkpoints[self.default] = replace(self.checkpoints[self.default], card=card)

    def verbs_of(self, method: str) -> list[str]:
        """Return what a method can be asked for."""
        about = self.methods.get(method)
        able = frozenset() if about is None else declared_verbs(about)
        return [verb for verb in JOBS if verb in able]

    def checkpoints_of(self, method: str) -> list[str]:
        """Return the checkpoints that a method works on; the server's own first."""
        about = self.methods[method]
        needs = getattr(about, "needs", None)
        names = sorted(self.checkpoints, key=lambda name: name != self.default)
        return [
            name
            for name in names
            if (needs is None or offers(self.checkpoints[name].kind, needs))
            and ("train" not in declared_verbs(about) or method in self.checkpoints[name].words)
        ]

    def as_json(self, limits: Mapping[str, int]) -> dict[str, Any]:
        """Return what ``GET /about`` answers."""
        return {
            "version": versions()["offbeat"],
            "backbones": [self._backbone(checkpoint) for checkpoint in self.checkpoints.values()],
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
        about, works = self.methods[name], self.checkpoints_of(name)
        words = self.checkpoints[works[0]].words.get(name, ()) if works else ()
        card = self.checkpoints[works[0]].card if works else {}
        return {
            "name": name,
            "verbs": self.verbs_of(name),
            "takes": _takes(about),
            "weights": bool(getattr(about, "takes_weights", False)),
            "summary": _summary(about),
            "backbones": works,
            "words": list(words),
            "settings": settings_of(about, card),
        }


def config_of(method: Any) -> type | None:
    """Return the class of a method's settings."""
    return getattr(method, "config_class", None)


def settings_of(method: Any, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's settings as a JSON schema, with defaults as they suit a checkpoint."""
    config = config_of(method)
    if config is None or not is_dataclass(config):
        return {"type": "object", "properties": {}}
    return schema_of(config, card)


def _summary(found: Any) -> str:
    module = sys.modules.get(getattr(found, "__module__", ""))
    text = (inspect.getdoc(module) if module else None) or inspect.getdoc(found) or ""
    return text.split("\n\n")[0].split("\nSource")[0].replace("\n", " ").replace("``", "")


def _takes(found: Any) -> list[str]:
    kinds = {kind for part in getattr(found, "takes", ()) for kind in part}
    if "evolve" in declared_verbs(found):
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
    words = {}
    for name in model.card.get("trained", {}):
        try:
            trained, _ = find_trained(make_method(name, model, None), model, None)
        except OffbeatError as error:  # of other weights: the method is not offered
            log.warning("%s", error)
            continue
        if trained is not None:
            words[name] = trained.vocabulary
    return words
