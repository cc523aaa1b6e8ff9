"""Seed variance: many ordinary pictures, and of these the ones that differ most.

From a pool of ordinary pictures, picture 0 comes first; next is always the one whose nearest kept
one is farthest away in CLIP image space. Nothing is changed in how pictures are drawn.
Source of the order: Gonzalez, Clustering to minimize the maximum intercluster distance (1985).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from offbeat.core.functional import farthest_first
from offbeat.errors import ConfigError
from offbeat.methods.pictures import Drawing, DrawsSubject
from offbeat.methods.settings import Settings, setting
from offbeat.protocols import SeeingBackbone

NAME = "seed-variance"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedVarianceConfig(Settings):
    """Size of the pool."""

    method = NAME

    num_seeds: int = setting(
        32, 1, 10_000, help="Ordinary pictures to choose from, however many are kept."
    )


class SeedVariance(DrawsSubject[SeedVarianceConfig]):
    """The most different of many ordinary pictures.

    ``on_step`` is told each kept picture's number in the pool, and its distance to those before.
    More pictures than the pool has are a ``ConfigError``. No judge is asked.
    """

    name = NAME
    config_class = SeedVarianceConfig
    needs = SeeingBackbone
    from_one_pool = True

    @torch.no_grad()
    def draw_subject(self, drawing: Drawing) -> Tensor:
        """Return the pictures of the pool that differ most."""
        start, backbone = drawing.start, drawing.backbone
        last, size = start + drawing.num, self.config.num_seeds
        if last > size:
            raise ConfigError(f"num_seeds: expected at least {last}, one a picture, got {size}")
        pool_of = replace(drawing, request=replace(drawing.request, num_images=size), start=0)
        pool = pool_of.draw(drawing.encode(drawing.request.subject))
        embeds = [backbone.encode_image(part).cpu() for part in pool.split(32)]
        kept, distances = farthest_first(torch.cat(embeds), last)
        values = {"first": start, "from_pool": kept[start:], "distances": distances[start:]}
        drawing.report(values, loss=-distances[-1])
        return pool[kept[start:]]
