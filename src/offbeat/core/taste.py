"""Learn a taste from pairs of pictures of which one was preferred.

A Bayesian logistic regression on features of pictures: the probability that one is preferred to
another is the logistic function of ``(features_a - features_b) @ weights``. The weights have a
normal prior; their posterior is taken as normal at its peak (Laplace), so that what little data
cannot say stays uncertain.

Source: MacKay, The evidence framework applied to classification networks (1992), for Laplace's
approximation and the moderated output; Houlsby et al., Bayesian active learning for classification
and preference learning, arXiv:1112.5745, for the information of a question.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from offbeat.core.checks import check_shape
from offbeat.core.rng import stream
from offbeat.errors import ConfigError

MAX_AXES = 16
"""Leading axes of the pictures' features that are used."""
FEW_AXES = 6
"""Of these, while questions are still being chosen."""
PRECISIONS = (0.1, 1.0, 10.0)
"""Of the prior, tried by cross-validation."""
FOLDS = 5
FEWEST = 20
"""Preferences below which nothing is learned."""


@dataclass(frozen=True, slots=True)
class Taste:
    """A preference model.

    Attributes:
        mean: Of the pictures' features, ``[D]``.
        axes: Scaled leading axes of the features, ``[D, K]``.
        weights: Posterior mean, ``[K]``.
        covariance: Of the posterior, ``[K, K]``.
        accuracy: Share of left-out preferences that were predicted, 0 to 1.
        num: Preferences that it rests on.
    """

    mean: Tensor
    axes: Tensor
    weights: Tensor
    covariance: Tensor
    accuracy: float
    num: int

    @classmethod
    def fit(cls, features: Tensor, winners: Tensor, losers: Tensor) -> Taste:
        """Learn from preferences.

        Args:
            features: Of each picture, ``[N, D]``.
            winners: Which picture was preferred, ``[M]``, 0 to N - 1.
            losers: To which, ``[M]``.

        Raises:
            ConfigError: If there are fewer than 20 preferences, or left-out ones are predicted no
                better than by chance.
            ShapeError: If the shapes differ.
        """
        check_shape("losers", losers, len(winners))
        if len(winners) < FEWEST:
            raise ConfigError(f"taste: expected at least {FEWEST} preferences, got {len(winners)}")
        mean, scaled = _leading_axes(features, min(MAX_AXES, max(1, len(winners) // 5)))
        points = (features.double() - mean) @ scaled
        gaps = points[winners] - points[losers]
        accuracies = [_held_out(gaps, winners, losers, precision) for precision in PRECISIONS]
        best = max(range(len(PRECISIONS)), key=lambda at: accuracies[at])
        if _p_of_chance(accuracies[best], len(gaps)) > 0.05:
            raise ConfigError(
                f"taste: {accuracies[best]:.0%} of left-out preferences were predicted, which is "
                "no better than chance; give more answers, or answers that agree"
            )
        weights, covariance = _posterior(gaps, PRECISIONS[best])
        return cls(mean, scaled, weights, covariance, accuracies[best], len(gaps))

    @classmethod
    def guess(cls, features: Tensor, winners: Tensor, losers: Tensor) -> Taste:
        """Return what a few answers say, none too few: to choose the next question by.

        Nothing is left out to check it, so ``accuracy`` is NaN and it steers nothing. Arguments
        are those of ``fit``.
        """
        mean, scaled = _leading_axes(features, FEW_AXES)
        points = (features.double() - mean) @ scaled
        weights, covariance = _posterior(points[winners] - points[losers], 1.0)
        return cls(mean, scaled, weights, covariance, math.nan, len(winners))

    def utility(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return how much pictures are liked, ``[B]``, and how uncertain that is, ``[B]``.

        Both are in logits; only differences of the first mean anything.
        """
        points = (features.double() - self.mean) @ self.axes
        spread = ((points @ self.covariance) * points).sum(dim=1).clamp(min=0).sqrt()
        return points @ self.weights, spread

    def probability(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the probability that each first is preferred to its second, ``[B]``."""
        mean, variance = self._gap(first, second)
        return torch.sigmoid(mean / (1 + math.pi * variance / 8).sqrt())

    def information(self, first: Tensor, second: Tensor) -> Tensor:
        """Return how much an answer about each pair would tell of the weights, ``[B]``, nats."""
        mean, variance = self._gap(first, second)
        nodes = torch.linspace(-4, 4, 41, dtype=torch.float64)
        masses = torch.softmax(-nodes.square() / 2, dim=0)
        probabilities = torch.sigmoid(mean[:, None] + variance.sqrt()[:, None] * nodes)
        inside = (_entropy(probabilities) * masses).sum(dim=1)
        return (_entropy((probabilities * masses).sum(dim=1)) - inside).clamp(min=0)

    def _gap(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        gap = (first.double() - second.double()) @ self.axes
        return gap @ self.weights, ((gap @ self.covariance) * gap).sum(dim=1).clamp(min=0)


def _leading_axes(features: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Return the mean of features, ``[D]``, and ``num`` leading axes scaled to it, ``[D, K]``."""
    features = features.double()
    mean = features.mean(dim=0)
    _, sizes, axes = torch.linalg.svd(features - mean, full_matrices=False)
    num = min(num, int((sizes > sizes[0] * 1e-6).sum()))
    return mean, axes[:num].T / (sizes[:num] / math.sqrt(len(features)))


def _posterior(gaps: Tensor, precision: float) -> tuple[Tensor, Tensor]:
    """Return the peak of the posterior and its covariance, by Newton's method."""
    size = gaps.shape[1]
    prior = precision * torch.eye(size, dtype=torch.float64)
    weights = torch.zeros(size, dtype=torch.float64)
    hessian = prior
    for _ in range(50):
        share = torch.sigmoid(gaps @ weights)
        hessian = gaps.T @ (gaps * (share * (1 - share))[:, None]) + prior
        step = torch.linalg.solve(hessian, gaps.T @ (1 - share) - prior @ weights)
        weights = weights + step
        if float(step.abs().max()) < 1e-9:
            break
    return weights, torch.linalg.inv(hessian)


def _held_out(gaps: Tensor, winners: Tensor, losers: Tensor, precision: float) -> float:
    """Return the share of left-out preferences that are predicted.

    Answers about the same two pictures are left out together, or they would tell each other.
    """
    low, high = torch.minimum(winners, losers), torch.maximum(winners, losers)
    _, pairs = torch.stack([low, high], dim=1).unique(dim=0, return_inverse=True)
    order = torch.randperm(int(pairs.max()) + 1, generator=stream(0, "folds"))
    fold = order[pairs] % FOLDS
    right = 0.0
    for number in range(FOLDS):
        out = fold == number
        if out.any() and not out.all():
            weights, _ = _posterior(gaps[~out], precision)
            logits = gaps[out] @ weights
            right += float((logits > 0).sum()) + 0.5 * float((logits == 0).sum())
    return right / len(gaps)


def _p_of_chance(accuracy: float, num: int) -> float:
    """Return how likely chance predicts as much, by the normal approximation."""
    z = (accuracy - 0.5) * 2 * math.sqrt(num)
    return 0.5 * math.erfc(z / math.sqrt(2))


def _entropy(share: Tensor) -> Tensor:
    share = share.clamp(1e-12, 1 - 1e-12)
    return -(share * share.log() + (1 - share) * (1 - share).log())
