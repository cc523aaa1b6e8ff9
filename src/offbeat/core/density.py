"""Densities in PCA space: what a model usually draws, how far a sample is, what to avoid.

Source: Song and Elgammal, arXiv:2601.22125, sections on the baseline density and directionality;
shrinkage: Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from offbeat.core.checks import check_finite, check_range, check_shape
from offbeat.errors import ConfigError, ShapeError

RIDGE = 1e-6
"""Added to every variance, as a share of their mean: keeps the inverse finite."""


VISIBLE_SHARE, MIN_AXES, MAX_AXES = 0.8, 4, 50
"""Axes kept by default: those that hold this share of the variance, within these limits."""


class Density(Protocol):
    """What a search needs to know about the ordinary."""

    @property
    def space(self) -> PcaSpace:
        """The PCA space that it is a density of."""
        ...

    def log_prob(self, image_embeds: Tensor) -> Tensor:
        """Return log density, ``[B]``, in nats per unit of PCA volume; differentiable."""
        ...

    def squared_distance(self, image_embeds: Tensor) -> Tensor:
        """Return squared Mahalanobis distance, ``[B]``; differentiable."""
        ...

    def sample(self, num: int, *, generator: torch.Generator) -> Tensor:
        """Return ``[num, D]`` embeddings drawn from the density."""
        ...


def visible_axes(variances: Tensor, share: float = VISIBLE_SHARE) -> int:
    """Return how many leading axes hold a share of the variance: at least 4, at most 50.

    Motion along axes of small variance costs as much whitened distance as along the leading ones,
    and changes the picture much less.

    Args:
        variances: Along each axis, falling, ``[D]``.
        share: Of their sum, above 0 to 1.
    """
    held = variances.double().clamp_min(0).cumsum(0)
    needed = int((held < share * held[-1]).sum()) + 1
    return min(max(needed, MIN_AXES), MAX_AXES, len(variances))


@dataclass(frozen=True, slots=True)
class PcaSpace:
    """The first k principal axes of a set of embeddings.

    Axes are signed so that the largest entry of each is positive: the same samples always give
    the same axes.
    """

    mean: Tensor
    """``[D]``."""
    axes: Tensor
    """Rows are orthonormal, by falling variance, ``[k, D]``."""
    variances: Tensor
    """Sample variance along each axis (denominator N - 1), ``[k]``."""
    total_variance: float
    """Of all D directions."""

    @classmethod
    def fit(
        cls, samples: Tensor, num_components: int | None, *, share: float = VISIBLE_SHARE
    ) -> PcaSpace:
        """Fit to ``samples``, ``[N, D]``.

        Args:
            samples: N embeddings.
            num_components: Axes, k; None keeps the leading ones, ``visible_axes`` of them.
            share: Of the variance that these hold, above 0 to 1.

        Raises:
            ConfigError: If there are fewer samples than axes, or fewer dimensions.
            NotFiniteError: If a sample holds NaN or infinity.
        """
        check_shape("samples", samples, None, None)
        check_finite("samples", samples)
        count, width = samples.shape
        most = min(count - 1, width)
        if num_components is not None and not 1 <= num_components <= most:
            raise ConfigError(
                f"num_components: expected 1 to {most} for {count} samples of "
                f"width {width}, got {num_components}; draw more samples or keep fewer axes"
            )
        points = samples.double()
        mean = points.mean(dim=0)
        values, vectors = torch.linalg.eigh(torch.cov(points.T))
        if num_components is None:
            num_components = min(visible_axes(values.flip(0), share), max(1, most))
        axes = vectors.T.flip(0)[:num_components]
        variances = values.flip(0)[:num_components]
        largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
        axes = axes * largest.sign()
        if float(variances[0]) <= 0:
            raise ConfigError("samples: expected some spread, got identical samples")
        variances = variances.clamp_min(0) + RIDGE * variances.mean()
        return cls(mean.float(), axes.float(), variances.float(), float(values.clamp_min(0).sum()))

    @property
    def num_components(self) -> int:
        """Number of axes, k."""
        return len(self.axes)

    @property
    def variance_kept(self) -> float:
        """Share of the variance along the kept axes, 0 to 1."""
        return min(1.0, float(self.variances.double().sum()) / self.total_variance)

    def project(self, image_embeds: Tensor) -> Tensor:
        """Return coordinates, ``[B, k]``, of ``[B, D]`` embeddings."""
        check_shape("image_embeds", image_embeds, None, self.mean.shape[0])
        coordinates: Tensor = (image_embeds - self.mean) @ self.axes.T
        return coordinates

    def whiten(self, image_embeds: Tensor) -> Tensor:
        """Return coordinates in standard deviations, ``[B, k]``."""
        return self.project(image_embeds) / self.variances.sqrt()

    def lift(self, coordinates: Tensor) -> Tensor:
        """Return embeddings, ``[B, D]``, at the ``[B, k]`` coordinates."""
        lifted: Tensor = self.mean + coordinates @ self.axes
        return lifted

    def residual_norm(self, image_embeds: Tensor) -> Tensor:
        """Return the length of the part that no axis sees, ``[B]``: motion there is free."""
        length: Tensor = (image_embeds - self.lift(self.project(image_embeds))).norm(dim=-1)
        return length


@dataclass(frozen=True, slots=True)
class GaussianDensity:
    """A Gaussian with the PCA variances: ``G(e~) = N(e~ | 0, Sigma)``, Sigma diagonal."""

    space: PcaSpace

    def squared_distance(self, image_embeds: Tensor) -> Tensor:
        """Return squared Mahalanobis distance, ``[B]``."""
        return self.space.whiten(image_embeds).square().sum(dim=-1)

    def log_prob(self, image_embeds: Tensor) -> Tensor:
        """Return log G, ``[B]``."""
        k = self.space.num_components
        normaliser = self.space.variances.log().sum() + k * math.log(2 * math.pi)
        return -0.5 * (self.squared_distance(image_embeds) + normaliser)

    def sample(self, num: int, *, generator: torch.Generator) -> Tensor:
        """Return ``[num, D]`` embeddings on the kept axes."""
        noise = torch.randn(num, self.space.num_components, generator=generator)
        return self.space.lift(noise * self.space.variances.sqrt())


@dataclass(frozen=True, slots=True)
class KernelDensity:
    """A Gaussian kernel on each baseline sample, Scott's bandwidth, in few dimensions."""

    space: PcaSpace
    points: Tensor
    """Whitened baseline samples, ``[N, k]``; k at most 8, or the estimate is empty."""

    MAX_COMPONENTS = 8

    def __post_init__(self) -> None:
        if self.space.num_components > self.MAX_COMPONENTS:
            raise ConfigError(
                f"num_components: expected at most {self.MAX_COMPONENTS} with density='kde', "
                f"got {self.space.num_components}"
            )

    @property
    def bandwidth(self) -> float:
        """Scott's rule, in standard deviations."""
        return float(len(self.points) ** (-1 / (self.space.num_components + 4)))

    def squared_distance(self, image_embeds: Tensor) -> Tensor:
        """Return squared Mahalanobis distance in the same axes, ``[B]``."""
        return self.space.whiten(image_embeds).square().sum(dim=-1)

    def log_prob(self, image_embeds: Tensor) -> Tensor:
        """Return the log of the kernel estimate, ``[B]``."""
        k, count = self.points.shape[1], len(self.points)
        white = self.space.whiten(image_embeds)
        gaps = (white[:, None] - self.points[None]).square().sum(dim=-1)  # [B, N]
        kernel = -0.5 * gaps / self.bandwidth**2
        volume = 0.5 * k * math.log(2 * math.pi) + k * math.log(self.bandwidth)
        scale = 0.5 * self.space.variances.log().sum()
        return torch.logsumexp(kernel, dim=1) - math.log(count) - volume - scale

    def sample(self, num: int, *, generator: torch.Generator) -> Tensor:
        """Return ``[num, D]`` embeddings on the kept axes."""
        picks = torch.randint(len(self.points), (num,), generator=generator)
        noise = torch.randn(num, self.points.shape[1], generator=generator)
        white = self.points[picks] + self.bandwidth * noise
        return self.space.lift(white * self.space.variances.sqrt())


def ledoit_wolf(points: Tensor) -> Tensor:
    """Return the shrunk covariance, ``[k, k]``, of ``points``, ``[n, k]``.

    The plain covariance of few points in many dimensions is near singular; this is the convex mix
    with a multiple of the identity that is closest in mean square. One point gives zero.
    """
    check_shape("points", points, None, None)
    count, width = points.shape
    centred = (points - points.mean(dim=0)).double()
    covariance = centred.T @ centred / count
    mean_variance = covariance.trace() / width
    target = mean_variance * torch.eye(width, dtype=torch.float64)
    spread = (covariance - target).square().sum() / width
    norms = centred.square().sum(dim=1)
    noise = (norms.square().sum() / count - covariance.square().sum()) / (count * width)
    weight = 1.0 if spread <= 0 else float((noise / spread).clamp(0, 1))
    return ((1 - weight) * covariance + weight * target).float()


@dataclass(frozen=True, slots=True)
class AvoidCluster:
    """A Gaussian around embeddings that are not wanted, in the baseline's whitened axes.

    ``floor`` is the log density below which a sample has left the cluster, and the loss stops
    pushing it: the 1 % quantile over its own samples, or, if that is lower, the density at the
    ordinary mean. A sample as far out as the cluster has left it at an angle of about 60 degrees.
    """

    space: PcaSpace
    mean: Tensor
    """``[k]``, whitened."""
    cholesky: Tensor
    """Of the shrunk covariance, ``[k, k]``, whitened."""
    floor: float

    MIN_STD = 0.25
    """A cluster of one picture is a point; this is its smallest width, in standard deviations."""

    @classmethod
    def fit(cls, space: PcaSpace, samples: Tensor) -> AvoidCluster:
        """Fit to unwanted ``samples``, ``[n, D]``, n at least 1.

        Raises:
            ShapeError: If there is no sample, or its width is not the space's.
        """
        if samples.ndim != 2 or len(samples) < 1:
            raise ShapeError(f"samples: expected shape [1 or more, D], got {list(samples.shape)}")
        check_finite("samples", samples)
        white = space.whiten(samples)
        identity = torch.eye(space.num_components)
        # more samples than axes say themselves how wide the cluster is
        widening = cls.MIN_STD**2 if len(samples) <= space.num_components else RIDGE
        cholesky = torch.linalg.cholesky(ledoit_wolf(white) + widening * identity)
        cluster = cls(space, white.mean(dim=0), cholesky, -math.inf)
        log_probs = cluster.log_prob(samples)
        # few samples have no 1 % quantile of their own: take the Gaussian's
        limit = chi_square_quantile(0.99, space.num_components)
        centre = float(cluster.log_prob(space.lift(cluster.mean * space.variances.sqrt())[None])[0])
        ordinary = float(cluster.squared_distance(space.mean[None])[0])
        floor = min(float(log_probs.quantile(0.01)), centre - 0.5 * limit, centre - 0.5 * ordinary)
        return cls(space, cluster.mean, cholesky, floor)

    def squared_distance(self, image_embeds: Tensor) -> Tensor:
        """Return squared Mahalanobis distance to the cluster, ``[B]``."""
        gap = self.space.whiten(image_embeds) - self.mean
        white: Tensor = torch.linalg.solve_triangular(self.cholesky, gap.T, upper=False)
        return white.square().sum(dim=0)

    def log_prob(self, image_embeds: Tensor) -> Tensor:
        """Return log density, ``[B]``, per unit of whitened volume."""
        k = len(self.mean)
        normaliser = 2 * self.cholesky.diagonal().log().sum() + k * math.log(2 * math.pi)
        return -0.5 * (self.squared_distance(image_embeds) + normaliser)


@dataclass(frozen=True, slots=True)
class Support:
    """Where a checkpoint draws something: a Gaussian over its samples of many prompts."""

    space: PcaSpace
    radius: float
    """Mahalanobis distance that 95 % of held-out samples lie within."""

    @classmethod
    def fit(cls, samples: Tensor) -> Support:
        """Fit to every second of ``samples``, ``[N, D]``, and calibrate on the others."""
        fitted, held_out = samples[0::2], samples[1::2]
        most = max(1, min(MAX_AXES, len(fitted) // 4, samples.shape[1]))
        space = PcaSpace.fit(fitted, most)
        return cls(space, float(space.whiten(held_out).norm(dim=1).quantile(0.95)))

    def excess(self, image_embeds: Tensor) -> Tensor:
        """Return how far ``[B, D]`` lie beyond the radius, ``[B]``, 0 inside; differentiable."""
        squared = self.space.whiten(image_embeds).square().sum(dim=-1)
        return (squared.clamp_min(1e-12).sqrt() - self.radius).clamp_min(0)

    def pack(self) -> dict[str, Tensor]:
        """Return tensors that ``unpack`` makes the same support of."""
        space = self.space
        values = torch.tensor([space.total_variance, self.radius], dtype=torch.float64)
        return {
            "mean": space.mean, "axes": space.axes, "variances": space.variances, "values": values,
        }  # fmt: skip

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor]) -> Support:
        """Return what ``pack`` was given."""
        total, radius = tensors["values"].tolist()
        return cls(PcaSpace(tensors["mean"], tensors["axes"], tensors["variances"], total), radius)


def chi_square_cdf(squared_distance: Tensor, num_components: int) -> Tensor:
    """Return the share of a k-dimensional Gaussian nearer than this, 0 to 1, same shape."""
    half = torch.as_tensor(squared_distance, dtype=torch.float64) / 2
    shape = torch.tensor(num_components / 2, dtype=torch.float64)
    share: Tensor = torch.special.gammainc(shape, half)
    return share


def chi_square_quantile(quantile: float, num_components: int) -> float:
    """Return the squared Mahalanobis distance that this share of a Gaussian lies within.

    Args:
        quantile: Between 0 and 1, both excluded.
        num_components: Dimensions, k.

    Raises:
        RangeError: If ``quantile`` is not inside (0, 1).
    """
    check_range("quantile", quantile, 0, 1, open_low=True, open_high=True)
    low, high = 0.0, float(num_components)

    def share(squared_distance: float) -> float:
        exact = torch.tensor(squared_distance, dtype=torch.float64)
        return float(chi_square_cdf(exact, num_components))

    while share(high) < quantile and high < 1e6:
        high *= 2
    for _ in range(100):  # halves the interval to below double precision
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < quantile else (low, middle)
    return (low + high) / 2
