"""What a judge reads in pictures: shares of known classes, in words and in figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from offbeat import registry
from offbeat._judges import labels_of, open_judge, reads_classes
from offbeat.errors import CapabilityError, StoreError
from offbeat.judges.classifier import ClassifierJudge
from offbeat.metrics.fusion import distribution_kl
from offbeat.protocols import EncodesImage, HasCard, ReadsClasses

NUM_SHOWN = 3
"""Classes named under a picture."""


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


def read(judge: ReadsClasses | None, images: Tensor) -> Tensor | None:
    """Return class probabilities of ``images``, ``[B, K]``; None without a judge."""
    return (
        None
        if judge is None
        else torch.cat([judge.class_probabilities(part) for part in images.split(32)])
    )


def in_percent(share: float) -> str:
    """Return a share, 0 to 1, in whole percent.

    >>> in_percent(0.414)
    '41 %'
    """
    return f"{share:.0%}".replace("%", " %")


def in_words(labels: Sequence[str], probabilities: Tensor, num: int = NUM_SHOWN) -> list[str]:
    """Return the largest shares of one picture, ``[K]``, e.g. ``["41 % frog", "30 % owl"]``."""
    top = probabilities.topk(min(num, len(labels)))
    shares = zip(top.values.tolist(), top.indices.tolist(), strict=True)
    return [f"{in_percent(share)} {labels[index]}" for share, index in shares if share >= 0.01]


def caption(labels: Sequence[str], probabilities: Tensor) -> str:
    """Return the lines under one picture: what it is most, then what else."""
    first, *others = in_words(labels, probabilities) or ["nothing known"]
    return "\n".join([first, *([", ".join(others)] if others else [])])


def label(point: Sequence[tuple[str, float]]) -> str:
    """Return a weighting in words, e.g. ``55 % pig + 45 % owl``."""
    return " + ".join(f"{in_percent(share)} {word}" for word, share in point)


def describe(
    labels: Sequence[str], probabilities: Tensor, weights: Mapping[str, float]
) -> dict[str, Any]:
    """Return figures of a concept's pictures, ``[B, K]``, against the shares that were asked.

    The divergence is there only where the judge knows every word.
    """
    shares = {word: probabilities[:, labels.index(word)] for word in weights if word in labels}
    found: dict[str, Any] = {
        "mean": {word: float(share.mean()) for word, share in shares.items()},
        "unknown_to_judge": [word for word in weights if word not in labels],
    }
    if shares and len(shares) == len(weights):
        asked = torch.zeros(1, len(labels))
        for word, share in weights.items():
            asked[0, labels.index(word)] = share
        found["kl"] = float(distribution_kl(asked, probabilities).mean())
        found["parents_share"] = float(torch.stack(list(shares.values())).sum(dim=0).mean())
    return found
