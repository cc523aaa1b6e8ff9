"""How different pictures are from each other, and how well they cover a set of references.

Sources: Friedman and Dieng, The Vendi Score, arXiv:2210.02410; Kynkäänniemi et al., Improved
precision and recall, arXiv:1904.06991; Naeem et al., Density and coverage, arXiv:2002.09797.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from offbeat.core.checks import check_shape
from offbeat.core.functional import cosine
from offbeat.errors import ConfigError
from offbeat.metrics.common import pictures
from offbeat.metrics.encoders import Encoder, EncoderMetric
from offbeat.metrics.fusion import vendi_score
from offbeat.protocols import Need

NEAREST_K = 5
"""Neighbours that make the radius around a sample, as in both sources' experiments."""


def mean_pair_distance(features: Tensor) -> float:
    """Return the mean cosine distance over all pairs of n items, 0 to 2.

    Args:
        features: ``[n, D]``, n >= 2.
    """
    if len(features) < 2:
        raise ConfigError(f"features: expected 2 items or more to compare, got {len(features)}")
    unit = features.double()
    upper = torch.triu_indices(len(unit), len(unit), 1)
    return float((1 - cosine(unit, unit))[upper[0], upper[1]].clamp_min(0).mean())


class Neighbourhoods(NamedTuple):
    """What nearest neighbours say of pictures and references."""

    precision: float
    """Share of pictures that lie within a reference's radius, 0 to 1."""
    recall: float
    """Share of references that lie within a picture's radius, 0 to 1."""
    density: float
    """Radii of references that a picture lies within, over k; 0 or more, 1 for equal sets."""
    coverage: float
    """Share of references with a picture within their radius, 0 to 1."""


def neighbourhoods(
    references: Tensor, features: Tensor, *, nearest_k: int = NEAREST_K
) -> Neighbourhoods:
    """Return precision, recall, density and coverage by Euclidean nearest neighbours.

    An item's radius reaches to its k-th nearest other of its own set. A set of equal items has
    radius 0, and nothing lies within.

    Args:
        references: ``[M, D]``, M > k.
        features: ``[N, D]``, N > k.
        nearest_k: 1 or more.

    Raises:
        ConfigError: If there are too few items for k.
    """
    check_shape("features", features, None, references.shape[-1])
    if nearest_k < 1 or nearest_k >= min(len(references), len(features)):
        raise ConfigError(
            f"nearest_k: expected 1 or more and fewer than the items of each set, got {nearest_k} "
            f"with {len(references)} references and {len(features)} pictures"
        )
    reference_radii, picture_radii = _radii(references, nearest_k), _radii(features, nearest_k)
    distances = _distances(references, features)  # [M, N]
    within = distances < reference_radii[:, None]
    return Neighbourhoods(
        precision=float(within.any(dim=0).double().mean()),
        recall=float((distances < picture_radii[None]).any(dim=1).double().mean()),
        density=float(within.sum(dim=0).double().mean() / nearest_k),
        coverage=float((distances.min(dim=1).values < reference_radii).double().mean()),
    )


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # the fast way by matrix products loses digits, and ties decide here
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _radii(points: Tensor, nearest_k: int) -> Tensor:
    nearest: Tensor = _distances(points, points).topk(nearest_k + 1, largest=False).values
    return nearest[:, -1]


class Vendi(EncoderMetric):
    """Vendi score: the effective number of different pictures, 1 to n; of one picture 1."""

    stem = "vendi"
    per_image = False

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return the score of all pictures, ``[1]``."""
        return torch.tensor([vendi_score(self.encoder.image_embeds(images))])


class Diversity(EncoderMetric):
    """Mean cosine distance of all pairs of pictures in the encoder's features, 0 to 2."""

    stem = "diversity"
    per_image = False
    at_least = 2

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return the mean distance, ``[1]``."""
        return torch.tensor([mean_pair_distance(self.encoder.image_embeds(images))])


class _Neighbours(EncoderMetric):
    """One of the four measures by nearest neighbours."""

    per_image = False
    needs: tuple[Need, ...] = ("references",)

    def __init__(self, encoder: Encoder, *, nearest_k: int = NEAREST_K) -> None:
        """Measure with this encoder.

        Args:
            encoder: Whose features are compared.
            nearest_k: Neighbours that make a radius; more pictures and references are needed.
        """
        super().__init__(encoder)
        self.nearest_k, self.at_least = nearest_k, nearest_k + 1
        self.note = f"{self.stem}: radii reach to neighbour {nearest_k}"

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return the measure of all pictures against all references, ``[1]``."""
        others = pictures(references, "references", at_least=self.at_least)
        measures = neighbourhoods(
            self.encoder.image_embeds(others),
            self.encoder.image_embeds(images),
            nearest_k=self.nearest_k,
        )
        return torch.tensor([getattr(measures, self.stem)], dtype=torch.float64)


class Precision(_Neighbours):
    """Share of pictures that look like a reference, 0 to 1."""

    stem = "precision"


class Recall(_Neighbours):
    """Share of references that look like a picture, 0 to 1."""

    stem = "recall"


class Density(_Neighbours):
    """How densely references lie where the pictures are, 0 or more; 1 for equal sets."""

    stem = "density"


class Coverage(_Neighbours):
    """Share of references that have a picture near, 0 to 1."""

    stem = "coverage"
