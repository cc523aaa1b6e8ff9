"""Seed variance: many ordinary pictures, and of these the ones that differ most.

From a pool of ordinary pictures, picture 0 comes first; next is always the one whose nearest kept
one is farthest away in CLIP image space. Nothing is changed in how pictures are drawn.
Source of the order: Gonzalez, Clustering to minimize the maximum intercluster distance (1985).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from offbeat.core.drawing import Noise, draw_from_text
from offbeat.core.functional import farthest_first
from offbeat.errors import ConfigError
from offbeat.methods.rivals.prompts import subject_prompt
from offbeat.methods.settings import Method, Settings, setting
from offbeat.protocols import SeeingBackbone
from offbeat.types import OnStep, Request, Step, ignore_step

NAME = "seed-variance"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedVarianceConfig(Settings):
    """Size of the pool, saved as it was asked."""

    method = NAME

    num_seeds: int = setting(
        32, 1, 10_000, help="Ordinary pictures to choose from, however many are kept."
    )


class SeedVariance(Method[SeedVarianceConfig]):
    """The most different of many ordinary pictures."""

    name = NAME
    config_class = SeedVarianceConfig
    needs = SeeingBackbone
    verbs = frozenset({"explore"})
    result = "pictures"
    from_one_pool = True

    @torch.no_grad()
    def draw(
        self,
        backbone: SeeingBackbone,
        request: Request,
        *,
        judge: Any | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Tensor:
        """Return the pictures that differ most, ``[N, 3, H, W]``, 0 to 1, on the CPU.

        Args:
            backbone: Frozen.
            request: The subject, the number of pictures, and the seed.
            judge: Unused: nobody looks but the image encoder.
            start: Number of the first.
            on_step: Told each kept picture's number in the pool, and its distance to those before.

        Raises:
            ConfigError: If more pictures are asked for than the pool has.
        """
        last, size = start + request.num_images, self.config.num_seeds
        if last > size:
            raise ConfigError(f"num_seeds: expected at least {last}, one a picture, got {size}")
        noise = Noise.ordinary(replace(request, num_images=size))
        text = backbone.encode_text([subject_prompt(backbone, request, "{subject}")])
        pool = draw_from_text(backbone, text, noise)
        rows = [backbone.encode_image(part).cpu() for part in pool.split(32)]
        kept, far = farthest_first(torch.cat(rows), last)
        values = {"first": start, "from_pool": kept[start:], "distances": far[start:]}
        on_step(Step(index=0, loss=-far[-1], values=values))
        return pool[kept[start:]]
