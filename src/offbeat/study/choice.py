"""Models of choices among alternatives: one likelihood for pairs, ties and rankings.

Every answer is a choice of one alternative among a few, and an alternative is a row of numbers
(which condition it shows, whether it stands on the left). The probability of an alternative is
the softmax of ``row @ weights``: McFadden's conditional logit. Its special cases are

- Bradley-Terry: two alternatives, each a picture;
- Davidson: a third alternative, the tie, whose row is the mean of both pictures and a tie's own 1;
- Plackett-Luce: a ranking of k pictures is k - 1 choices, each among those that are left.

Intervals allow for raters who answer in their own way: the covariance is summed by rater (Liang
and Zeger's sandwich), with the quantiles of Student's t for as many raters as there are.

Source: McFadden, Conditional logit analysis (1974); Bradley and Terry (1952); Davidson, On
extending the Bradley-Terry model to ties (1970); Plackett (1975); Cameron and Miller, A
practitioner's guide to cluster-robust inference (2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from offbeat.errors import ConfigError

Numbers = NDArray[np.float64]
Codes = NDArray[np.int64]

RIDGE = 1e-3
"""Half the weight of the squared weights; it keeps a condition that always wins finite."""
MAX_ITERATIONS = 100


@dataclass(frozen=True, slots=True)
class Choices:
    """N choices among at most A alternatives.

    Attributes:
        rows: Numbers of each alternative, ``[N, A, K]``.
        chosen: Which alternative was chosen, ``[N]``, 0 to A - 1.
        open: Which alternatives there were, ``[N, A]``.
        raters: Who chose, ``[N]``.
    """

    rows: Numbers
    chosen: Codes
    open: NDArray[np.bool_]
    raters: Codes

    def __post_init__(self) -> None:
        if len(self.chosen) == 0:
            raise ConfigError("answers: expected at least one, got none")


@dataclass(frozen=True, slots=True)
class Fit:
    """Weights of a conditional logit with their covariance.

    Attributes:
        weights: ``[K]``, in logits.
        covariance: ``[K, K]``, robust to how each rater answers.
        num_raters: How many raters it rests on; 1 less are the degrees of freedom.
        converged: Whether the weights stand still.
    """

    weights: Numbers
    covariance: Numbers
    num_raters: int
    converged: bool

    def contrast(self, difference: Sequence[float], level: float = 0.95) -> Estimate:
        """Return ``difference @ weights`` with its interval and test.

        Args:
            difference: ``[K]``, such as +1 for one condition and -1 for another.
            level: Of the interval, 0 to 1.
        """
        row = np.asarray(difference, float)
        value = float(row @ self.weights)
        error = float(np.sqrt(max(row @ self.covariance @ row, 0.0)))
        freedom = max(self.num_raters - 1, 1)
        reach = float(stats.t.ppf(0.5 + level / 2, freedom)) * error
        if error == 0.0 or self.num_raters < 2:
            return Estimate(value, float("-inf"), float("inf"), 1.0)
        p = float(2 * stats.t.sf(abs(value) / error, freedom))
        return Estimate(value, value - reach, value + reach, p)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval and the two-sided p value that it is 0."""

    value: float
    low: float
    high: float
    p: float


def fit_choices(choices: Choices) -> Fit:
    """Fit a conditional logit by Newton's method.

    Weights that nothing tells apart, such as a shift of all strengths, are held near 0.
    """
    num = choices.rows.shape[2]
    weights, converged = np.zeros(num), False
    for _ in range(MAX_ITERATIONS):
        scores, hessian = _scores(choices, weights)
        gradient = scores.sum(axis=0) - 2 * RIDGE * weights
        step = np.linalg.solve(hessian + 2 * RIDGE * np.eye(num), gradient)
        step *= min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-300))  # far steps overshoot
        weights = weights + step
        if float(np.abs(step).max()) < 1e-9:
            converged = True
            break
    scores, hessian = _scores(choices, weights)
    bread = np.linalg.inv(hessian + 2 * RIDGE * np.eye(num))
    covariance, num_raters = sandwich(bread, scores, choices.raters)
    return Fit(weights, covariance, num_raters, converged)


def sandwich(bread: Any, scores: Any, clusters: Codes) -> tuple[Any, int]:
    """Return the cluster-robust covariance and the number of clusters.

    Args:
        bread: Inverse of the negative Hessian, ``[K, K]``.
        scores: Gradient of each answer's log-likelihood, ``[N, K]``.
        clusters: Whose answer it is, ``[N]``.
    """
    names, codes = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(names), scores.shape[1]))
    np.add.at(sums, codes, scores)
    factor = len(names) / max(len(names) - 1, 1)  # few clusters look more alike than they are
    return factor * bread @ (sums.T @ sums) @ bread, len(names)


def _scores(choices: Choices, weights: Numbers) -> tuple[Numbers, Numbers]:
    """Return the gradient of each answer, ``[N, K]``, and the negative Hessian, ``[K, K]``."""
    logits = np.where(choices.open, choices.rows @ weights, -np.inf)
    logits -= logits.max(axis=1, keepdims=True)
    shares = np.exp(logits)
    shares /= shares.sum(axis=1, keepdims=True)  # [N, A]
    mean = np.einsum("na,nak->nk", shares, choices.rows)
    picked = choices.rows[np.arange(len(mean)), choices.chosen]
    around = choices.rows - mean[:, None, :]
    hessian = np.einsum("na,nak,nal->kl", shares, around, around)
    return picked - mean, hessian


# --- answers as choices


def of_pairs(
    left: Codes, right: Codes, outcomes: Codes, raters: Codes, num_conditions: int
) -> Choices:
    """Return pair answers as choices.

    The weights are the conditions' strengths, then how much the left place helps, then, where
    any answer is a tie, how likely ties are.

    Args:
        left: Condition shown on the left, ``[N]``.
        right: Condition shown on the right, ``[N]``.
        outcomes: 0 where the left was chosen, 1 the right, 2 neither, ``[N]``.
        raters: Who answered, ``[N]``.
        num_conditions: How many conditions there are.
    """
    num, ties = len(left), bool((outcomes == 2).any())
    rows = np.zeros((num, 3, num_conditions + 2))
    each = np.arange(num)
    rows[each, 0, left] += 1.0
    rows[each, 0, num_conditions] = 1.0
    rows[each, 1, right] += 1.0
    rows[:, 2] = (rows[:, 0] + rows[:, 1]) / 2
    rows[:, 2, num_conditions + 1] = 1.0
    if not ties:
        rows = rows[:, :2, :-1]
    return Choices(rows, outcomes.astype(np.int64), np.ones(rows.shape[:2], bool), raters)


def of_rankings(rankings: Sequence[Sequence[int]], raters: Codes, num_conditions: int) -> Choices:
    """Return rankings, best first, as choices among those that are left.

    The weights are the conditions' strengths.
    """
    most = max((len(ranking) for ranking in rankings), default=0)
    rows, chosen, free, who = [], [], [], []
    for ranking, rater in zip(rankings, raters, strict=True):
        for start in range(len(ranking) - 1):
            row = np.zeros((most, num_conditions))
            rest = list(ranking[start:])
            row[np.arange(len(rest)), rest] = 1.0
            rows.append(row)
            free.append(np.arange(most) < len(rest))
            chosen.append(0)
            who.append(rater)
    if not rows:
        raise ConfigError("rankings: expected at least one of two pictures, got none")
    return Choices(np.stack(rows), np.array(chosen), np.stack(free), np.array(who))


def difference(first: int, second: int, num_weights: int) -> list[float]:
    """Return the contrast of the first condition's strength over the second's."""
    row = [0.0] * num_weights
    row[first] += 1.0
    row[second] -= 1.0
    return row


def preference(logit: float) -> float:
    """Return the share that prefers the first of two conditions, of those who prefer one.

    >>> round(preference(0.0), 2)
    0.5
    """
    return float(1 / (1 + np.exp(-logit)))
