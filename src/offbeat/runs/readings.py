"""Put what a judge reads in pictures (shares of known classes) into words and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from offbeat.core.functional import distribution_kl
from offbeat.protocols import ReadsClasses, ReadsPresence
from offbeat.protocols.judges import PRESENT_FROM

NUM_SHOWN = 3
"""Classes named under a picture."""


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


def of(judge: ReadsClasses | None, images: Tensor, weights: Mapping[str, float]) -> dict[str, Any]:
    """Return what a judge reads in a concept's pictures, ``[B, 3, H, W]``; nothing without one.

    Figures as ``describe`` gives them, ``images`` and ``captions`` in words, and of a judge that
    reads presence ``present``, each word's mean, and ``all_present``, the share of pictures in
    which every word is there.
    """
    probabilities = read(judge, images)
    if judge is None or probabilities is None:
        return {}
    labels = judge.labels
    row = describe(labels, probabilities, weights)
    row["images"] = [", ".join(in_words(labels, each)) for each in probabilities]
    row["captions"] = [caption(labels, each) for each in probabilities]
    words = [word for word in weights if word in labels]
    if isinstance(judge, ReadsPresence) and words:
        columns = [labels.index(word) for word in words]
        present = torch.cat([judge.presence(part)[:, columns] for part in images.split(32)])
        row["present"] = dict(zip(words, present.mean(dim=0).tolist(), strict=True))
        is_there = present >= PRESENT_FROM
        row["all_present"] = float(is_there.all(dim=1).float().mean())
        row["captions"] = [
            f"{text}\n{_there(words, flags)}"
            for text, flags in zip(row["captions"], is_there.tolist(), strict=True)
        ]
    return row


def _there(words: Sequence[str], flags: Sequence[bool]) -> str:
    seen = [word for word, flag in zip(words, flags, strict=True) if flag]
    return f"there: {', '.join(seen)}" if seen else "there: none of them"


def sentence(row: Mapping[str, Any], num_images: int) -> str:
    """Return what ``of`` found in words, for a run's report; empty where it found nothing."""
    if not row.get("mean"):
        return ""
    shares = ", ".join(f"{in_percent(share)} {word}" for word, share in row["mean"].items())
    text = f" Read by the judge, mean of {num_images}: {shares}"
    text += f"; divergence {row['kl']:.2f} nats." if "kl" in row else "."
    if len(row.get("present", ())) > 1:
        text += f" All of them are there in {in_percent(row['all_present'])} of the pictures."
    return text


def describe(
    labels: Sequence[str], probabilities: Tensor, weights: Mapping[str, float]
) -> dict[str, Any]:
    """Return figures of a concept's pictures, ``[B, K]``, against the shares that were asked.

    The divergence is there only where the judge knows every word.
    """
    shares = {word: probabilities[:, labels.index(word)] for word in weights if word in labels}
    reading: dict[str, Any] = {
        "mean": {word: float(share.mean()) for word, share in shares.items()},
        "unknown_to_judge": [word for word in weights if word not in labels],
    }
    if shares and len(shares) == len(weights):
        wanted = torch.zeros(1, len(labels))
        for word, share in weights.items():
            wanted[0, labels.index(word)] = share
        reading["kl"] = float(distribution_kl(wanted, probabilities).mean())
        reading["parents_share"] = float(torch.stack(list(shares.values())).sum(dim=0).mean())
    return reading
