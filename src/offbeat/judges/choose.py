"""Judges by name: models of their own in folders and on the hub, servers, plug-ins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offbeat import registry
from offbeat.checkpoints.weights import model_config, model_folder
from offbeat.core.vocab import DEFAULT_LABELS
from offbeat.errors import CapabilityError, CheckpointError, ConfigError, PromptError, StoreError
from offbeat.judges.classifier import ClassifierJudge
from offbeat.protocols import (
    CalibratedJudge,
    ChecksSubject,
    EncodesImage,
    ExploringBackbone,
    HasCard,
    NamesThings,
    PriorBackbone,
    ReadsClasses,
)

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
        ConfigError: If an address is not one.
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


def own_reader(judge: Any, backbone: HasCard) -> Any:
    """Return whose stages look at pictures: the judge's if it has any, else the checkpoint's own.

    None where the checkpoint brings no classifier.
    """
    if hasattr(judge, "features"):
        return judge
    own = backbone.card.get("judge")
    if own is None:
        return None
    return ClassifierJudge.load(own, device=backbone.device, subjects=backbone.card["subjects"])


def problems_of(judge: Any) -> list[str]:
    """Return what a judge could not answer and why; only one that can be out of reach has any."""
    return list(getattr(judge, "problems", ()))


def _judge_of(name: str, backbone: Any, subject: str) -> tuple[Any, bool]:
    """Return whoever looks at pictures of a subject, and whether it can say if they are one.

    ``auto`` is the checkpoint's own classifier; where there is none, its own CLIP towers if it has
    a prior, whose space both share, and else nobody.
    """
    if name == "none":
        return None, False
    if not isinstance(backbone, PriorBackbone):
        if name == "clip":
            raise CapabilityError("the clip judge", backbone.name, "sample_prior", ("pocket",))
        if name == "auto" and backbone.card.get("judge") is None:
            return None, False
        name = "classifier" if name == "auto" else name
    try:
        return choose_judge(name, backbone, subject), True
    except PromptError:
        if name != "classifier":
            raise
    # a name that it does not know: it can say what else it sees, and not whether it is one
    return choose_reader(name, backbone), False


def _asker(name: str, backbone: Any, subject: str) -> Any:
    """Return who says what a search sees; None asks nobody.

    Raises:
        ConfigError: If it does not name what it sees.
    """
    found = choose_judge(name, backbone, subject)
    return None if found is None else names_things(found, name)


def choose_reader(name: str, backbone: HasCard, words: Sequence[str] = ()) -> ReadsClasses | None:
    """Return a judge that gives class probabilities.

    It is auto, none, clip, classifier, or as ``open_judge`` takes it; one that can know any word
    knows ``words`` too. ``auto`` takes the checkpoint's own classifier, else its own CLIP towers
    over the names of its card, else none.

    Raises:
        UnknownNameError: If there is no such judge.
        StoreError: If the checkpoint brings no classifier and one is asked for.
        CapabilityError: If the checkpoint cannot read pictures and must.
    """
    own = backbone.card.get("judge")
    if name == "none":
        return None
    if name in ("auto", "classifier") and own is not None:
        return ClassifierJudge.load(own, subjects=backbone.card["subjects"])
    if name == "classifier":
        raise StoreError(f"{backbone.name} brings no classifier; give its folder with --judge")
    if name in ("auto", "clip"):
        if not isinstance(backbone, EncodesImage) or len(backbone.card["concepts"]) < 2:
            if name == "auto":
                return None
            raise CapabilityError("the clip judge", backbone.name, "encode_image", ("pocket",))
        clip: ReadsClasses = registry.find("judge", "clip")(backbone)
        return clip
    return reads_classes(open_judge(name, backbone, labels=labels_of(backbone, words)), name)


def choose_any(names: str, backbone: HasCard) -> Any:
    """Return the judge of a name for whatever it can answer; several, with commas, as a tuple.

    The names are those of ``choose_reader``, or as ``open_judge`` takes them.
    """
    own = ("auto", "none", "clip", "classifier")
    found = [
        choose_reader(name, backbone) if name in own else open_judge(name, backbone)
        for name in (part.strip() for part in names.split(","))
    ]
    return found[0] if len(found) == 1 else tuple(found)


def choose_judge(name: str, backbone: ExploringBackbone, subject: str) -> ChecksSubject | None:
    """Return the judge of this name: auto, none, clip, classifier, or as ``open_judge`` takes it.

    ``auto`` takes the checkpoint's own classifier if it knows the subject, and reads pixels with
    its image encoder if not.

    Raises:
        UnknownNameError: If there is no such judge.
        CheckpointError: If a folder or hub id holds none.
    """
    if name == "none":
        return None
    own = backbone.card.get("judge")
    if name in ("auto", "classifier") and own is not None:
        judge = ClassifierJudge.load(own, subjects=backbone.card["subjects"])
        try:
            judge.members(subject)
        except PromptError:
            if name == "classifier":
                raise
        else:
            return judge
    if name in ("auto", "clip"):
        labels = None if len(backbone.card["concepts"]) > 1 else DEFAULT_LABELS
        found: CalibratedJudge = registry.find("judge", "clip")(backbone, concepts=labels)
        return found
    if name == "classifier":
        raise StoreError(f"{backbone.name} brings no classifier; give its folder with --judge")
    given = open_judge(name, backbone)
    if isinstance(given, ClassifierJudge):
        given.members(subject)  # a subject that it does not know fails here, not after the search
    return checks_subject(given, name)


def _reader(name: str, backbone: HasCard, words: Sequence[str]) -> ReadsClasses | None:
    """Return who reads what decoded tokens draw.

    Raises:
        ConfigError: If the judge gives no class probabilities.
    """
    if name == "auto":
        # the checkpoint's own towers: its classifier stays unseen, to judge the result
        able = isinstance(backbone, EncodesImage) and len(backbone.card["concepts"]) > 1
        name = "clip" if able else "none"
    if name in ("none", "clip", "classifier"):
        return choose_reader(name, backbone)
    return reads_classes(open_judge(name, backbone, labels=words), name)
