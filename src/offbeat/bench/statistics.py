"""Intervals, paired tests and verdicts: pure functions of numbers, the same on every call."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch

from offbeat.core.rng import stream
from offbeat.metrics.common import bootstrap_interval

Verdict = Literal["as in the paper", "not", "undecided"]

NUM_RESAMPLES = 5000
EXACT_UP_TO = 14
"""Pairs up to which every sign is tried."""
LEVEL = 0.05
FEWEST = 6
"""Pairs below which no two-sided test of signs can reach the level: 2 / 2^5 is above it."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean; of one value, that value.

    >>> interval([2.0])
    (2.0, 2.0)
    """
    return bootstrap_interval(values) if len(values) > 1 else (values[0], values[0])


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the two-sided p value that paired differences have mean 0, by flipping signs.

    Exact up to 14 pairs, by 5,000 random flips beyond (then at least 1 / 5,001).

    >>> sign_flip_p([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    0.03125
    """
    kept = torch.tensor(differences, dtype=torch.float64)
    if len(kept) <= EXACT_UP_TO:
        signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=len(kept))))
        extra = 0
    else:
        drawn = torch.randint(2, (NUM_RESAMPLES, len(kept)), generator=stream(0, "signs"))
        signs, extra = drawn * 2.0 - 1, 1
    means = (signs.double() @ kept / len(kept)).abs()
    seen = float(kept.mean().abs()) * (1 - 1e-12)
    return (int((means >= seen).sum()) + extra) / (len(signs) + extra)


def verdict(differences: Sequence[float], *, within: float | None = None) -> Verdict:
    """Return the verdict on a claim from paired differences; positive ones support the paper.

    Args:
        differences: One a pair: an item, mean over its seeds.
        within: None asks whether the mean is above 0, by the test of signs at 5 %. A number asks
            whether it is above ``-within``, by the same test of the differences with it added.
    """
    if len(differences) < FEWEST:
        return "undecided"
    moved = [value + (within or 0.0) for value in differences]
    mean = sum(moved) / len(moved)
    if sign_flip_p(moved) >= LEVEL:
        return "undecided"
    return "as in the paper" if mean > 0 else "not"
