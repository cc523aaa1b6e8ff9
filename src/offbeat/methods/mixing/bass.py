"""BASS: draw many random exchanges of columns of two text embeddings, keep the balanced ones.

Many pictures are drawn from one noise, each from another exchange; kept are those that are about as
near to one word's picture as to the other's, and near enough; of these the one whose parts show
both words best. Nothing is learned.
Source: Balance Swap-Sampling, arXiv:2310.01819 (ECCV 2024). The two limits, the number of samples
and the segments' score are not in what we know of it: they are our reading. In place of Segment
Anything stands any ``Segments``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.core.checks import check_range
from offbeat.core.functional import balance_reward, cosine
from offbeat.core.rng import stream
from offbeat.methods.mixing.segments import find_segmenter
from offbeat.methods.mixing.swaps import Swapping, half_ones, similarities
from offbeat.methods.pictures import Drawing, MixesSources
from offbeat.methods.settings import Settings, denoising_steps, guidance, setting
from offbeat.protocols import ComparingBackbone, Segments

NAME = "bass"
BATCH = 8
"""Exchanges between two reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BassConfig(Settings):
    """Settings of BASS; limits and numbers are our reading."""

    method = NAME

    num_swaps: int = setting(200, 1, 100_000, help="Exchanges drawn for each picture.")
    num_pilot: int = setting(32, 1, 100_000, help="Of these, the first so many set beta.")
    alpha: float = setting(0.05, 0, 2, help="Largest difference of the two distances, 0 to 2.")
    beta: float | None = setting(
        None, 0, 2, help="Largest mean of the two distances, 0 to 2; None is the pilot's median."
    )
    segmenter: str = setting(
        "colour", help="colour, patches of like colour, or none: the picture is one part."
    )
    num_inference_steps: int | None = denoising_steps()
    guidance_scale: float | None = guidance()

    def check(self) -> None:
        """Raise if the pilot is longer than the run, or there is no such segmenter."""
        check_range("num_pilot", self.num_pilot, 1, self.num_swaps)
        find_segmenter(self.segmenter)


def in_balance(first: Tensor, second: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Return which pictures lie in the balance region, ``[B]``, bool.

    Args:
        first: Distances to the first word's picture, 1 - cosine, ``[B]``.
        second: To the second's.
        alpha: ``|d1 - d2|`` at most.
        beta: ``(d1 + d2) / 2`` at most.

    Source: BASS, arXiv:2310.01819, the balance region.
    """
    return ((first - second).abs() <= alpha) & (first + second <= 2 * beta)


def segment_score(first: Tensor, second: Tensor) -> Tensor:
    """Return how well a picture's parts show both words; higher is better.

    Args:
        first: Cosines of its K parts to the first word's picture, ``[K]``.
        second: To the second's.

    Returns:
        Scalar: the mean of each part's better cosine, less the difference of the two best ones.

    Source: our reading; BASS compares segments by CLIP and prints no formula.
    """
    return first.maximum(second).mean() - (first.max() - second.max()).abs()


class BASS(MixesSources[BassConfig]):
    """Random exchanges of columns, sifted by balance and by parts.

    ``on_step`` is told each batch of exchanges, and how many lie in the balance region. Where none
    does, the best-balanced picture comes back, and the last report of it has a ``note``.
    """

    name = NAME
    config_class = BassConfig
    needs = ComparingBackbone

    def __init__(
        self, config: BassConfig | None = None, *, segmenter: Segments | None = None
    ) -> None:
        """Take settings, and a segmenter in place of the one that they name."""
        super().__init__(config)
        self.segmenter = segmenter or find_segmenter(self.config.segmenter)

    @property
    def num_steps(self) -> int:
        """Reports for each picture."""
        return -(-self.config.num_swaps // BATCH)

    @torch.no_grad()
    def draw_mixture(self, drawing: Drawing) -> Tensor:
        """Return pictures that are both words, each the best of its own noise."""
        cfg = self.config
        swapping = Swapping.of(drawing, cfg.num_inference_steps, cfg.guidance_scale)
        first, second = (swapping.read(part) for part in drawing.parents())
        rows = [slice(row, row + 1) for row in range(drawing.num)]
        return torch.stack([self._search(swapping, (first[row], second[row]), row) for row in rows])

    def _search(self, swapping: Swapping, parents: tuple[Tensor, Tensor], at: slice) -> Tensor:
        """Return the best picture of one noise, ``[3, H, W]``."""
        cfg, row, drawing = self.config, at.start, swapping.drawing
        number = drawing.start + row
        noise = stream(drawing.request.seed, NAME, number)
        columns = torch.stack([half_ones(swapping.width, noise) for _ in range(cfg.num_swaps)])
        images, cosines = [], []
        for batch, part in enumerate(columns.split(BATCH)):
            images.append(swapping.draw(part, [row] * len(part)))
            cosines.append(torch.stack(similarities(swapping.read(images[-1]), *parents)))
            first, second = torch.cat(cosines, dim=1)  # [2, F]
            beta = cfg.beta
            if beta is None:
                beta = float((1 - (first + second) / 2)[: cfg.num_pilot].median())
            inside = in_balance(1 - first, 1 - second, alpha=cfg.alpha, beta=beta)
            rewards = balance_reward(first, second)
            values: dict[str, Any] = {
                "picture": number,
                "drawn": len(first),
                "inside": int(inside.sum()),
                "beta": beta,
            }
            if len(first) == cfg.num_swaps and not values["inside"]:
                values["note"] = (
                    "no exchange lies in the balance region; the best-balanced is shown"
                )
            drawing.report(values, index=row * self.num_steps + batch, loss=-float(rewards.max()))
        drawn = torch.cat(images)
        if not bool(inside.any()):
            return drawn[rewards.argmax()]
        kept = drawn[inside]
        scores = torch.stack([self._score(swapping, image, parents) for image in kept])
        return kept[scores.argmax()]

    def _score(self, swapping: Swapping, image: Tensor, parents: tuple[Tensor, Tensor]) -> Tensor:
        parts = image[None]
        if self.segmenter is not None:
            (masks,) = self.segmenter.segments(parts)
            parts = torch.where(masks[:, None], image, 1.0)  # each part alone, on white
        embeds = swapping.read(parts)
        first, second = (cosine(embeds, parent)[:, 0] for parent in parents)
        return segment_score(first, second)
