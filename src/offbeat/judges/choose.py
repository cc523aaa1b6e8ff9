"""Who looks at pictures: the one place that turns a judge's name into a judge."""

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
    ChecksSubject,
    EncodesImage,
    ExploringBackbone,
    NamesThings,
    ReadsClasses,
    TextBackbone,
)

CANNOT: dict[type[Any], str] = {
    ChecksSubject: "does not say whether a picture still shows the subject",
    ReadsClasses: "gives no class probabilities",
    NamesThings: "does not name what it sees",
}
"""What an error says of a judge that cannot do what it is chosen for."""

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


def open_judge(name: str, backbone: TextBackbone, *, labels: Sequence[str] = ()) -> Any:
    """Load a judge that is not part of the checkpoint.

    Args:
        name: A name of the registry (``smolvlm``), the folder or hub id of a vision-language model
            or of a classifier, or the model of a server as ``api:MODEL@ADDRESS``.
        backbone: The judge runs on the device of this checkpoint.
        labels: The words that a vision-language model chooses between; ``labels_of`` if empty.

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
    model_type = MODEL_TYPES.get(str(config.get("model_type")))
    if model_type is None:
        classes = config.get("architectures") or ()
        if not any("ImageClassification" in str(kind) for kind in classes):
            raise CheckpointError(
                f"{name}: expected an image classifier, or a vision-language model of type "
                f"{', '.join(MODEL_TYPES)}, got {config.get('model_type')!r}"
            )
        subjects = backbone.card["subjects"]
        return ClassifierJudge.load(folder, device=backbone.device, subjects=subjects)
    return registry.find("judge", model_type).load(name, **known)


def labels_of(backbone: TextBackbone, words: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the words that a judge without fixed classes chooses between.

    They are the concepts on the checkpoint's card, or common ones, and then ``words``.
    """
    concepts = tuple(backbone.card["concepts"])
    known = concepts if len(concepts) > 1 else DEFAULT_LABELS
    return tuple(dict.fromkeys((*known, *(word for word in words if word not in known))))


def choose_judge(
    name: str,
    backbone: TextBackbone,
    task: type[Any],
    *,
    subject: str | None = None,
    words: Sequence[str] = (),
    unseen: bool = False,
) -> Any:
    """Return the judge of a name for one task, or None if nobody is to look.

    Args:
        name: ``none``; ``classifier``, which is the one that comes with the checkpoint; ``clip``,
            the checkpoint's own image encoder; any name that ``open_judge`` takes; or ``auto``:
            the classifier if there is one and it knows the subject, else ``clip`` if the
            checkpoint can, else nobody.
        backbone: The checkpoint.
        task: What the judge must do: ``ChecksSubject``, ``ReadsClasses`` or ``NamesThings``.
        subject: The word that the judge must know, if the task is about one.
        words: Words that a judge without fixed classes must know beside the checkpoint's.
        unseen: Keep the checkpoint's classifier out of ``auto``, so that it can judge the result.

    Raises:
        UnknownNameError: If there is no such judge.
        ConfigError: If the judge cannot do the task.
        PromptError: If the classifier does not know the subject.
        StoreError: If the checkpoint brings no classifier.
        CheckpointError: If a folder or hub id holds no judge.
        CapabilityError: If the checkpoint cannot read pictures.
    """
    if name == "auto":
        name = _automatic(backbone, subject, unseen=unseen)
    if name == "none":
        return None
    if name == "classifier":
        source = backbone.card.get("judge")
        if source is None:
            raise StoreError(f"{backbone.name} brings no classifier; give its folder with --judge")
        judge = ClassifierJudge.load(source, subjects=backbone.card["subjects"])
    elif name == "clip":
        judge = _clip(backbone, subject)
    else:
        judge = open_judge(name, backbone, labels=labels_of(backbone, words))
    if subject is not None and isinstance(judge, ClassifierJudge):
        judge.members(subject)  # an unknown subject fails here, not after the search
    if not isinstance(judge, task):
        raise ConfigError(f"judge: {name} {CANNOT[task]}; choose another")
    return judge


def choose_checker(name: str, backbone: TextBackbone, subject: str) -> tuple[Any, bool]:
    """Return who looks at pictures of a subject, and whether it can tell if they show it.

    A classifier that does not know the subject can still say what else it sees.
    """
    try:
        judge = choose_judge(name, backbone, ChecksSubject, subject=subject)
    except PromptError:
        if name not in ("auto", "classifier"):
            raise
        return choose_judge("classifier", backbone, ReadsClasses), False
    return judge, judge is not None


def choose_any(names: str, backbone: TextBackbone) -> Any:
    """Return the judge of a name for whatever it can answer; several, with commas, as a tuple."""
    bundled = ("auto", "none", "clip", "classifier")
    judges = [
        choose_judge(name, backbone, ReadsClasses)
        if name in bundled
        else open_judge(name, backbone)
        for name in (part.strip() for part in names.split(","))
    ]
    return judges[0] if len(judges) == 1 else tuple(judges)


def own_reader(judge: Any, backbone: TextBackbone) -> Any:
    """Return whose stages look at pictures: the judge's if it has any, else the checkpoint's own.

    None where the checkpoint brings no classifier.
    """
    if hasattr(judge, "features"):
        return judge
    source = backbone.card.get("judge")
    if source is None:
        return None
    return ClassifierJudge.load(source, device=backbone.device, subjects=backbone.card["subjects"])


def problems_of(judge: Any) -> list[str]:
    """Return which questions a judge could not answer and why; empty for a judge on this device."""
    return list(getattr(judge, "problems", ()))


def _automatic(backbone: TextBackbone, subject: str | None, *, unseen: bool) -> str:
    """Return the judge that ``auto`` stands for."""
    source = backbone.card.get("judge")
    if source is not None and not unseen:
        if subject is None or not isinstance(backbone, ExploringBackbone):
            return "classifier"
        try:
            ClassifierJudge.load(source, subjects=backbone.card["subjects"]).members(subject)
        except PromptError:
            return "clip" if _shares_space(backbone) else "none"
        return "classifier"
    if subject is not None:
        return "clip" if _shares_space(backbone) else "none"
    able = isinstance(backbone, EncodesImage) and len(backbone.card["concepts"]) > 1
    return "clip" if able else "none"


def _shares_space(backbone: TextBackbone) -> bool:
    """Return whether a checkpoint reads pictures and texts into one space."""
    read = getattr(backbone, "read_texts", None)
    return isinstance(backbone, ExploringBackbone) and (read is None or read(["a"]) is not None)


def _clip(backbone: TextBackbone, subject: str | None) -> Any:
    """Return the judge that runs on the checkpoint's own image encoder."""
    concepts = len(backbone.card["concepts"]) > 1
    clip = registry.find("judge", "clip")
    if subject is not None:
        if not _shares_space(backbone):
            raise CapabilityError("the clip judge", backbone.name, "sample_prior", ("pocket",))
        return clip(backbone, concepts=None if concepts else DEFAULT_LABELS)
    if not isinstance(backbone, EncodesImage) or not concepts:
        raise CapabilityError("the clip judge", backbone.name, "encode_image", ("pocket",))
    return clip(backbone)
