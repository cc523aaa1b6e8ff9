"""Judges by name: models of their own in folders and on the hub, servers, plug-ins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offbeat import registry
from offbeat._weights import model_config, model_folder
from offbeat.errors import CheckpointError, ConfigError
from offbeat.judges.classifier import ClassifierJudge
from offbeat.protocols import ChecksSubject, HasCard, NamesThings, ReadsClasses
from offbeat.vocab import DEFAULT_LABELS

SERVER = "api"
MODEL_TYPES = {
    "blip": "blip-vqa",
    "blip-2": "blip2",
    "llava_next": "llava-next",
    "janus": "janus",
    "qwen2_5_vl": "qwen2.5-vl",
    "smolvlm": "smolvlm",
    "idefics3": "idefics3",
}
"""What ``config.json`` says a model is, and the judge that runs it; all others classify."""


def open_judge(name: str, backbone: HasCard, *, labels: Sequence[str] = ()) -> Any:
    """Return a judge that is not of the checkpoint's own weights.

    Args:
        name: A name of the registry (``smolvlm``), the folder or hub id of a vision-language model
            or a classifier, or a server's model as ``api:MODEL@ADDRESS``.
        backbone: On whose device it runs.
        labels: What one that can know any word chooses between; those of ``labels_of`` if empty.

    Raises:
        UnknownNameError: If there is no such judge.
        CheckpointError: If a folder or hub id holds none.
        ConfigError: If an address is none.
    """
    kind, _, rest = name.partition(":")
    if kind == SERVER:
        return registry.find("judge", SERVER).load(rest)
    known = {"labels": labels or labels_of(backbone), "device": backbone.device}
    if name in MODEL_TYPES.values():
        return registry.find("judge", name).load(**known)
    if not (Path(name).expanduser().is_dir() or name.count("/") == 1):
        return registry.find("judge", name)()
    folder = model_folder(name)
    config = model_config(folder)
    found = MODEL_TYPES.get(str(config.get("model_type")))
    if found is None:
        if not any("ImageClassification" in str(one) for one in config.get("architectures") or ()):
            raise CheckpointError(
                f"{name}: expected an image classifier, or a vision-language model of type "
                f"{', '.join(MODEL_TYPES)}, got {config.get('model_type')!r}"
            )
        subjects = backbone.card["subjects"]
        return ClassifierJudge.load(folder, device=backbone.device, subjects=subjects)
    return registry.find("judge", found).load(name, **known)


def labels_of(backbone: HasCard, words: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what a judge that can know any word chooses between.

    The names of the checkpoint's card, else common ones; then the further ``words``.
    """
    own = tuple(backbone.card["concepts"])
    known = own if len(own) > 1 else DEFAULT_LABELS
    return tuple(dict.fromkeys((*known, *(word for word in words if word not in known))))


def checks_subject(judge: Any, name: str) -> ChecksSubject:
    """Return a judge that answers whether it is still a subject.

    Raises:
        ConfigError: If it does not.
    """
    if not isinstance(judge, ChecksSubject):
        raise ConfigError(f"judge: {name} does not say whether it is still a subject; choose one")
    return judge


def reads_classes(judge: Any, name: str) -> ReadsClasses:
    """Return a judge that gives class probabilities.

    Raises:
        ConfigError: If it does not.
    """
    if not isinstance(judge, ReadsClasses):
        raise ConfigError(f"judge: {name} gives no class probabilities; choose another")
    return judge


def names_things(judge: Any, name: str) -> NamesThings:
    """Return a judge that names what it sees.

    Raises:
        ConfigError: If it does not.
    """
    if not isinstance(judge, NamesThings):
        raise ConfigError(f"judge: {name} does not name what it sees; choose another")
    return judge


def problems_of(judge: Any) -> list[str]:
    """Return what a judge could not answer and why; only one that can be out of reach has any."""
    return list(getattr(judge, "problems", ()))
