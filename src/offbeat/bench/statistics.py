"""Intervals, paired tests and verdicts: pure functions of numbers, the same on every call."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from offbeat.core.rng import stream
from offbeat.metrics.common import bootstrap_interval

Verdict = Literal[
    "as in the paper", "not as in the paper", "holds", "does not hold", "equal within the margin",
    "undecided",
]  # fmt: skip

NUM_RESAMPLES = 5000
NUM_SIMULATED = 1000
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


def sign_flip_p(differences: Sequence[float], *, one_sided: bool = False) -> float:
    """Return the p value that paired differences have mean 0, by flipping signs.

    Exact up to 14 pairs, by 5,000 random flips beyond (then at least 1 / 5,001).

    Args:
        differences: One a pair.
        one_sided: Whether only means above 0 count against it.

    >>> sign_flip_p([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    0.03125
    """
    values = torch.tensor(differences, dtype=torch.float64)
    signs, extra = _signs(len(values))
    means, mean = signs.double() @ values / len(values), values.mean()
    if not one_sided:
        means, mean = means.abs(), mean.abs()
    seen = float(mean) - 1e-12 * float(mean.abs())
    return (int((means >= seen).sum()) + extra) / (len(signs) + extra)


def equivalence_p(differences: Sequence[float], margin: float) -> float:
    """Return the p value that the mean is a ``margin`` or more from 0: two one-sided tests.

    Source: Schuirmann, A comparison of the two one-sided tests procedure (1987).
    """
    above = sign_flip_p([margin - value for value in differences], one_sided=True)
    below = sign_flip_p([margin + value for value in differences], one_sided=True)
    return max(above, below)


def effect_size(differences: Sequence[float]) -> float:
    """Return the mean over the standard deviation of paired differences (Cohen's d_z).

    NaN for fewer than two, infinite where all are alike and not 0.
    """
    if len(differences) < 2:
        return math.nan
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    return mean / spread if spread else math.copysign(math.inf, mean) if mean else 0.0


@functools.cache
def smallest_effect(num: int, *, power: float = 0.8) -> float:
    """Return the smallest d_z that ``num`` pairs find with a power, by this test, simulated.

    Infinite below the fewest pairs. Differences are normal; the same call gives the same number.
    """
    if num < FEWEST:
        return math.inf
    noise = torch.randn(NUM_SIMULATED, num, generator=stream(0, "power"), dtype=torch.float64)
    signs = _signs(num)[0].double() / num
    low, high = 0.0, 4.0
    for _ in range(10):
        effect = (low + high) / 2
        values = noise + effect
        means = values @ signs.T
        p = (means.abs() >= values.mean(dim=1, keepdim=True).abs() - 1e-12).double().mean(dim=1)
        found = float((p < LEVEL).double().mean())
        low, high = (effect, high) if found < power else (low, effect)
    return high


def _signs(num: int) -> tuple[Tensor, int]:
    """Return rows of signs, ``[S, num]``, and how many of the observed sign are to be added."""
    if num <= EXACT_UP_TO:
        return torch.tensor(list(itertools.product((1.0, -1.0), repeat=num))), 0
    return torch.randint(2, (NUM_RESAMPLES, num), generator=stream(0, "signs")) * 2.0 - 1, 1


def verdict(mean: float, p: float, num: int, *, of_paper: bool, equal: bool = False) -> Verdict:
    """Return the verdict on a claim.

    Args:
        mean: Of the differences, above 0 in favour of the claim.
        p: Corrected for all claims of the page.
        num: Pairs.
        of_paper: Whether a paper claims it.
        equal: Whether the claim is that there is no difference beyond its margin.
    """
    if num < FEWEST or not p < LEVEL:
        return "undecided"
    if equal:
        return "equal within the margin"
    if of_paper:
        return "as in the paper" if mean > 0 else "not as in the paper"
    return "holds" if mean > 0 else "does not hold"
