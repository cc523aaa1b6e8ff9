"""Intervals, paired tests and verdicts: pure functions of numbers, the same on every call."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Literal

import torch
from scipy import stats
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
FEWEST_TRAININGS = 5


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


def paired_p(differences: Sequence[float], unit: str, *, one_sided: bool = False) -> float:
    """Return the p value that paired differences have mean 0, by the test of a unit.

    Items and runs by flipping signs; trainings by the t test. These are few, each the mean over
    many items and so near normal, and five signs can say nothing. Where all are alike, signs.
    """
    if unit != "training" or len(set(differences)) < 2:
        return sign_flip_p(differences, one_sided=one_sided)
    side = "greater" if one_sided else "two-sided"
    return float(stats.ttest_1samp(differences, 0.0, alternative=side).pvalue)


def equivalence_p(differences: Sequence[float], margin: float, unit: str = "item") -> float:
    """Return the p value that the mean is a ``margin`` or more from 0: two one-sided tests.

    Source: Schuirmann, A comparison of the two one-sided tests procedure (1987).
    """
    above = paired_p([margin - value for value in differences], unit, one_sided=True)
    below = paired_p([margin + value for value in differences], unit, one_sided=True)
    return max(above, below)


def fewest(unit: str) -> int:
    """Return the fewest pairs of a unit that a verdict may rest on."""
    return FEWEST_TRAININGS if unit == "training" else FEWEST


def effect_size(differences: Sequence[float]) -> float:
    """Return the mean over the standard deviation of paired differences (Cohen's d_z).

    NaN for fewer than two, infinite where all are alike and not 0.
    """
    if len(differences) < 2:
        return math.nan
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    return mean / spread if spread else math.copysign(math.inf, mean) if mean else 0.0


@functools.cache
def smallest_effect(num: int, unit: str = "item", *, power: float = 0.8) -> float:
    """Return the smallest d_z that ``num`` pairs find with a power, by their test, simulated.

    Infinite below the fewest pairs. Differences are normal; the same call gives the same number.
    """
    if num < fewest(unit):
        return math.inf
    noise = torch.randn(NUM_SIMULATED, num, generator=stream(0, "power"), dtype=torch.float64)
    signs = _signs(num)[0].double() / num
    low, high = 0.0, 4.0
    for _ in range(10):
        effect = (low + high) / 2
        values = noise + effect
        if unit == "training":
            p = torch.from_numpy(stats.ttest_1samp(values.numpy(), 0.0, axis=1).pvalue)
        else:
            means, mean = values @ signs.T, values.mean(dim=1, keepdim=True)
            p = (means.abs() >= mean.abs() - 1e-12).double().mean(dim=1)
        share = float((p < LEVEL).double().mean())
        low, high = (effect, high) if share < power else (low, effect)
    return high


def _signs(num: int) -> tuple[Tensor, int]:
    """Return rows of signs, ``[S, num]``, and how many of the observed sign are to be added."""
    if num <= EXACT_UP_TO:
        return torch.tensor(list(itertools.product((1.0, -1.0), repeat=num))), 0
    return torch.randint(2, (NUM_RESAMPLES, num), generator=stream(0, "signs")) * 2.0 - 1, 1


def verdict(
    mean: float, p: float, num: int, *, of_paper: bool, equal: bool = False, unit: str = "item"
) -> Verdict:
    """Return the verdict on a claim.

    Args:
        mean: Of the differences, above 0 in favour of the claim.
        p: Corrected for all claims of the page.
        num: Pairs.
        of_paper: Whether a paper claims it.
        equal: Whether the claim is that there is no difference beyond its margin.
        unit: What a pair is of.
    """
    if num < fewest(unit) or not p < LEVEL:
        return "undecided"
    if equal:
        return "equal within the margin"
    if of_paper:
        return "as in the paper" if mean > 0 else "not as in the paper"
    return "holds" if mean > 0 else "does not hold"
