"""Seen novelty: how different pictures look from ordinary ones, by an encoder that no loss uses.

Ours. 1 is just another ordinary picture; 2 is twice as far from the nearest ordinary pictures as
these are from each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offbeat.core.functional import cosine
from offbeat.errors import ImageError
from offbeat.metrics.common import in_equal_sizes, pictures
from offbeat.metrics.encoders import Encoder, EncoderMetric
from offbeat.metrics.fusion import vendi_score
from offbeat.protocols import Need

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

NEAREST = 3
"""Ordinary pictures that a distance is the mean of: one alone is noisy."""
MIN_REFERENCES = 8
"""Fewer do not say how far ordinary pictures are from each other."""


def nearest_distances(features: Tensor, references: Tensor, *, itself: bool = False) -> Tensor:
    """Return each item's mean distance to its ``NEAREST`` references, ``[N]``, 0 to 2.

    Distances are those of the unit vectors, so that twice as far is twice the length; 1 - cosine
    would be its square.

    Args:
        features: ``[N, D]``.
        references: ``[M, D]``.
        itself: Whether item i is reference i, which is then left out.
    """
    distances = (2 - 2 * cosine(features.double(), references.double())).clamp_min(0).sqrt()
    if itself:
        distances.fill_diagonal_(torch.inf)
    count = min(NEAREST, len(references) - itself)
    return distances.topk(count, dim=1, largest=False).values.mean(dim=1)


def seen_novelty(features: Tensor, references: Tensor) -> Tensor:
    """Return how many times as far from ordinary pictures each item is as these are, ``[N]``.

    Args:
        features: Of the pictures, ``[N, D]``.
        references: Of ordinary pictures, ``[M, D]``, M at least 8.

    Returns:
        0 or more; the mean over ordinary pictures is 1.

    Raises:
        ImageError: If there are too few references.
    """
    if len(references) < MIN_REFERENCES:
        raise ImageError(
            f"references: expected at least {MIN_REFERENCES} ordinary pictures, got "
            f"{len(references)}"
        )
    unit = nearest_distances(references, references, itself=True).mean().clamp_min(1e-9)
    return (nearest_distances(features, references) / unit).float()


def variety(features: Tensor, ordinary: Tensor) -> float:
    """Return the Vendi score of pictures over that of as many ordinary ones; 1 is as varied.

    Args:
        features: ``[N, D]``.
        ordinary: Of ordinary pictures, ``[M, D]``; sets of N of them are averaged.
    """
    size = min(len(features), len(ordinary))
    sets = ordinary[: len(ordinary) // size * size].split(size)
    expected = sum(vendi_score(part) for part in sets) / len(sets)
    return vendi_score(features[:size]) / expected


class StageEye:
    """What the stages of a classifier see: colour and texture early, shape and kind late."""

    logit_scale: float | None = None

    def __init__(self, reader: Any) -> None:
        """Look through a judge that has ``features``, such as a ``ClassifierJudge``."""
        self._reader = reader
        self.name = self.checkpoint = str(reader.name)

    def image_embeds(self, images: Sequence[Tensor]) -> Tensor:
        """Return ``[B, D]``: each stage's mean features at length 1, side by side."""

        def read(part: Tensor) -> Tensor:
            means = [stage.mean(dim=(2, 3)) for stage in self._reader.features(part)]
            return torch.cat([torch.nn.functional.normalize(mean, dim=1) for mean in means], dim=1)

        return in_equal_sizes(images, read)

    def text_embeds(self, texts: Sequence[str]) -> Tensor:
        """Refuse texts: a classifier reads none."""
        raise NotImplementedError("a classifier's eye reads pictures only")


class PlainEye:
    """Colours and edges on a coarse grid: no weights, so it looks at pictures of any checkpoint."""

    name = checkpoint = "colours-and-edges"
    logit_scale: float | None = None
    SIDE, CELLS, LEVELS, ANGLES = 64, 4, 4, 8

    def image_embeds(self, images: Sequence[Tensor]) -> Tensor:
        """Return ``[B, D]``: a histogram of colours, and one of edges in each of 16 cells."""
        return in_equal_sizes(images, self._read)

    def _read(self, images: Tensor) -> Tensor:
        small = torch.nn.functional.interpolate(
            images.float(), (self.SIDE, self.SIDE), mode="bilinear", antialias=True
        ).clamp(0, 1)
        levels = (small * (self.LEVELS - 1e-4)).long()
        codes = (levels[:, 0] * self.LEVELS + levels[:, 1]) * self.LEVELS + levels[:, 2]
        colours = torch.nn.functional.one_hot(codes.flatten(1), self.LEVELS**3).float().mean(dim=1)
        grey = small.mean(dim=1)
        across = grey[:, :-1, 1:] - grey[:, :-1, :-1]
        down = grey[:, 1:, :-1] - grey[:, :-1, :-1]
        angle = torch.atan2(down, across).remainder(torch.pi) / torch.pi * (self.ANGLES - 1e-4)
        edges = torch.nn.functional.one_hot(angle.long(), self.ANGLES).permute(0, 3, 1, 2)
        weight = (across.square() + down.square()).sqrt()[:, None]
        cells = torch.nn.functional.adaptive_avg_pool2d(edges * weight, self.CELLS).flatten(1)
        # square roots keep one flat background from hiding everything else
        parts = [torch.nn.functional.normalize(part.sqrt(), dim=1) for part in (colours, cells)]
        return torch.cat(parts, dim=1).cpu()

    def text_embeds(self, texts: Sequence[str]) -> Tensor:
        """Refuse texts: colours and edges have none."""
        raise NotImplementedError("colours and edges are of pictures only")


def eye_of(reader: Any) -> Encoder:
    """Return the eye of whoever reads pictures: its stages, or colours and edges if it has none."""
    return StageEye(reader) if hasattr(reader, "features") else PlainEye()


class SeenNovelty(EncoderMetric):
    """How many times as different from the references as these are from each other."""

    stem = "seen_novelty"
    needs: tuple[Need, ...] = ("references",)

    @classmethod
    def load(
        cls, source: str | Path | None = None, *, backbone: Any = None, device: Any = "cpu"
    ) -> Self:
        """Load a CLIP as the eye, or take colours and edges, which no checkpoint learned from."""
        return cls(PlainEye()) if source is None else super().load(source, device=device)

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return each picture's seen novelty, ``[B]``."""
        others = pictures(references, "references", at_least=MIN_REFERENCES)
        return seen_novelty(self.encoder.image_embeds(images), self.encoder.image_embeds(others))
