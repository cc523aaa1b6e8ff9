"""The baseline: what a checkpoint usually draws of a subject, to measure unusual pictures by.

Source: Song and Elgammal, arXiv:2601.22125, baseline density; the calibration on held-out samples
and novelty as a quantile are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.core.density import (
    VISIBLE_SHARE,
    AvoidCluster,
    Density,
    GaussianDensity,
    KernelDensity,
    PcaSpace,
    chi_square_cdf,
    chi_square_quantile,
)
from offbeat.core.functional import cosine
from offbeat.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Baseline:
    """Density, anchor and calibration of one prompt on one checkpoint."""

    prompt: str
    kind: str
    """``gaussian`` or ``kde``."""
    space: PcaSpace
    coordinates: Tensor
    """Of the samples, for maps and kernels, ``[N, k]``."""
    held_out: Tensor
    """Squared distances of samples that were not fitted, ascending, ``[M]``."""
    text_embeds: Tensor
    """Of the prompt: the anchor, ``[1, D]``."""
    anchor_mean: float
    anchor_std: float
    residual_mean: float
    """Mean length of what the axes do not see."""

    @classmethod
    def fit(
        cls,
        prompt: str,
        samples: Tensor,
        held_out: Tensor,
        text_embeds: Tensor,
        *,
        num_components: int | None = None,
        share: float = VISIBLE_SHARE,
        kind: str = "gaussian",
    ) -> Baseline:
        """Fit to ``samples``, ``[N, D]``; calibrate on ``held_out``, ``[M, D]``.

        ``num_components`` and ``share`` choose the axes: see ``PcaSpace.fit``.

        Raises:
            ConfigError: If there are too few samples, or ``kind`` is unknown.
        """
        if kind not in ("gaussian", "kde"):
            raise ConfigError(f"density: expected 'gaussian' or 'kde', got {kind!r}")
        space = PcaSpace.fit(samples, num_components, share=share)
        anchor = 1 - cosine(samples, text_embeds)[:, 0]
        return cls(
            prompt=prompt,
            kind=kind,
            space=space,
            coordinates=space.project(samples),
            held_out=GaussianDensity(space).squared_distance(held_out).sort().values,
            text_embeds=text_embeds,
            anchor_mean=float(anchor.mean()),
            anchor_std=float(anchor.std()),
            residual_mean=float(space.residual_norm(samples).mean()),
        )

    @property
    def density(self) -> Density:
        """The density that searches minimise."""
        if self.kind == "kde":
            return KernelDensity(self.space, self.coordinates / self.space.variances.sqrt())
        return GaussianDensity(self.space)

    def anchor_threshold(self, num_noises: int = 1) -> float:
        """Return tau_a: mean and two standard deviations of the ordinary anchor loss.

        The deviation is that of a mean over ``num_noises`` samples, which a step takes.
        """
        return self.anchor_mean + 2 * self.anchor_std / math.sqrt(num_noises)

    @property
    def ordinary_distance(self) -> float:
        """Median Mahalanobis distance of held-out samples."""
        return float(self.held_out.median().sqrt())

    def describe(
        self, image_embeds: Tensor, clusters: Sequence[AvoidCluster] = ()
    ) -> dict[str, Any]:
        """Return where samples, ``[B, D]``, are, as JSON values.

        Distances are Mahalanobis and not squared; ``axes`` are the first two, for the map.
        """
        image_embeds = image_embeds.detach()
        distance = self.density.squared_distance(image_embeds).sqrt()
        low, median, high = (float(distance.quantile(q)) for q in (0.1, 0.5, 0.9))
        axes = self.space.project(image_embeds)[:, :2]
        return {
            "distance_median": median,
            "distance_p10": low,
            "distance_p90": high,
            "quantile": self.quantile(median),
            "held_out_share": self.held_out_share(median),
            "log_prob": float(self.density.log_prob(image_embeds).mean()),
            "anchor_cosine": float(cosine(image_embeds, self.text_embeds).mean()),
            "residual": float(self.space.residual_norm(image_embeds).mean()),
            "axes": [[round(float(value), 4) for value in row] for row in axes],
            "avoid_distance": [
                float(cluster.squared_distance(image_embeds).sqrt().median())
                for cluster in clusters
            ],
        }

    def way_out(self, image_embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return ordinary and given samples along the direction by which these left.

        The direction is their mean in whitened coordinates; both come in standard deviations,
        ``[N]`` and ``[B]``.
        """
        white = self.space.whiten(image_embeds.detach())
        direction = torch.nn.functional.normalize(white.mean(dim=0), dim=0)
        ordinary = self.coordinates / self.space.variances.sqrt()
        return ordinary @ direction, white @ direction

    def radius(self, novelty: float) -> float:
        """Return the Mahalanobis distance of a novelty quantile, inside (0, 1)."""
        return math.sqrt(chi_square_quantile(novelty, self.space.num_components))

    def quantile(self, distance: float) -> float:
        """Return the share of a Gaussian nearer than ``distance``, 0 to 1."""
        square = torch.tensor(distance, dtype=torch.float64).square()
        return float(chi_square_cdf(square, self.space.num_components))

    def held_out_share(self, distance: float) -> float:
        """Return the share of real held-out samples nearer than ``distance``, 0 to 1."""
        return float((self.held_out < distance**2).float().mean())

    def calibration(self) -> list[dict[str, float]]:
        """Return rows of quantile, squared distance by the Gaussian, and by held-out samples."""
        rows = []
        for quantile in (0.5, 0.9, 0.95, 0.99, 0.999):
            gaussian = chi_square_quantile(quantile, self.space.num_components)
            rows.append(
                {
                    "quantile": quantile,
                    "gaussian": gaussian,
                    "held_out": float(self.held_out.double().quantile(quantile)),
                    "held_out_share": self.held_out_share(math.sqrt(gaussian)),
                }
            )
        return rows

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON values that ``unpack`` makes the same baseline of."""
        tensors = {
            "mean": self.space.mean,
            "axes": self.space.axes,
            "variances": self.space.variances,
            "coordinates": self.coordinates,
            "held_out": self.held_out,
            "text_embeds": self.text_embeds,
        }
        values = {
            "prompt": self.prompt,
            "kind": self.kind,
            "total_variance": self.space.total_variance,
            "anchor_mean": self.anchor_mean,
            "anchor_std": self.anchor_std,
            "residual_mean": self.residual_mean,
        }
        return tensors, values

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Baseline:
        """Return what ``pack`` was given."""
        parts: dict[str, Any] = dict(values)
        space = PcaSpace(
            tensors["mean"], tensors["axes"], tensors["variances"], parts.pop("total_variance")
        )
        parts |= {name: tensors[name] for name in ("coordinates", "held_out", "text_embeds")}
        return cls(space=space, **parts)
