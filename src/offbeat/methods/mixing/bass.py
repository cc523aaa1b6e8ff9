"""BASS: balance swap-sampling. Columns of two text embeddings, exchanged at random, often.

Many pictures are drawn from one noise, each from another exchange; kept are those that are about as
near to one word's picture as to the other's, and near enough; of these the one whose parts show
both words best. Nothing is learned.
Source: Balance Swap-Sampling, arXiv:2310.01819 (ECCV 2024). The two limits, the number of samples
and the segments' score are not in what we know of it: they are our reading. In place of Segment
Anything stands any ``Segments``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.core.checks import check_range
from offbeat.core.functional import balance_reward, cosine
from offbeat.core.rng import stream
from offbeat.methods.mixing.segments import find_segmenter
from offbeat.methods.mixing.sources import pictures_of, two_words
from offbeat.methods.mixing.swaps import Swapping, half_ones, similarities
from offbeat.methods.settings import Method, Settings, setting
from offbeat.protocols import ComparingBackbone, Segments
from offbeat.protocols.methods import Source
from offbeat.types import OnStep, Request, Step, ignore_step

NAME = "bass"
BATCH = 8
"""Exchanges between two reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BassConfig(Settings):
    """Settings of BASS, saved as they were asked; limits and numbers are our reading."""

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
    num_inference_steps: int | None = setting(
        None, 1, 1000, help="Denoising steps; None: those of the checkpoint."
    )
    guidance_scale: float | None = setting(
        None, 0, 1000, help="Guidance; None: that of the checkpoint."
    )

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


class BASS(Method[BassConfig]):
    """Random exchanges of columns, sifted by balance and by parts."""

    name = NAME
    config_class = BassConfig
    needs = ComparingBackbone
    verbs = frozenset({"fuse", "sweep"})
    result = "pictures"

    def __init__(
        self, config: BassConfig | None = None, *, segmenter: Segments | None = None
    ) -> None:
        """Take settings, and a segmenter in place of the one that they name."""
        self.config = config or BassConfig()
        self.segmenter = segmenter or find_segmenter(self.config.segmenter)

    @property
    def num_steps(self) -> int:
        """Reports for each picture."""
        return -(-self.config.num_swaps // BATCH)

    @torch.no_grad()
    def mix(
        self,
        backbone: ComparingBackbone,
        request: Request,
        sources: Sequence[Source],
        *,
        pictures: Sequence[Tensor] | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Tensor:
        """Return pictures that are both words, each the best of its own noise.

        Args:
            backbone: Frozen.
            request: The seed, the number of pictures, and a template with ``{subject}``.
            sources: Two words.
            pictures: The words' ordinary pictures, ``[N, 3, H, W]``, if drawn already.
            start: Number of the first picture.
            on_step: Told each batch of exchanges, and how many lie in the balance region.

        Returns:
            ``[N, 3, H, W]``, float32, 0 to 1, on the CPU. Where no exchange lies in the region, the
            best-balanced one of all, and its last report has a ``note``.

        Raises:
            ConfigError: If a source is a picture.
        """
        cfg, words = self.config, two_words(NAME, sources)
        steps = {
            "num_inference_steps": cfg.num_inference_steps,
            "guidance_scale": cfg.guidance_scale,
        }
        swapping = Swapping.of(backbone, request, words, start, **steps)
        first, second = (
            swapping.read(part) for part in pictures_of(backbone, request, sources, pictures, start)
        )
        found = []
        for row in range(request.num_images):
            parents = (first[row : row + 1], second[row : row + 1])
            noise = stream(request.seed, NAME, start + row)
            found.append(self._search(swapping, parents, noise, row, on_step))
        return torch.stack(found)

    def _search(
        self,
        swapping: Swapping,
        parents: tuple[Tensor, Tensor],
        noise: torch.Generator,
        row: int,
        on_step: OnStep,
    ) -> Tensor:
        """Return the best picture of one noise, ``[3, H, W]``."""
        cfg = self.config
        columns = torch.stack([half_ones(swapping.width, noise) for _ in range(cfg.num_swaps)])
        images, cosines = [], []
        for number, part in enumerate(columns.split(BATCH)):
            images.append(swapping.draw(part, [row] * len(part)))
            cosines.append(torch.stack(similarities(swapping.read(images[-1]), *parents)))
            one, two = torch.cat(cosines, dim=1)  # [2, F]
            beta = cfg.beta
            if beta is None:
                beta = float((1 - (one + two) / 2)[: cfg.num_pilot].median())
            inside = in_balance(1 - one, 1 - two, alpha=cfg.alpha, beta=beta)
            rewards = balance_reward(one, two)
            values: dict[str, Any] = {
                "picture": swapping.start + row,
                "drawn": len(one),
                "inside": int(inside.sum()),
                "beta": beta,
            }
            if len(one) == cfg.num_swaps and not values["inside"]:
                values["note"] = (
                    "no exchange lies in the balance region; the best-balanced is shown"
                )
            index = row * self.num_steps + number
            on_step(Step(index=index, loss=-float(rewards.max()), values=values))
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
