"""Where stages get their views from: a pool that is made anew bit by bit, and a fixed set."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from recipes.pocket import augment, captions, data, loop, world
from torch import Tensor

Reading = Callable[[Tensor], Tensor]
"""What a stage wants to know of pictures, ``[B, 3, H, W]``, 0 to 1."""
WORKERS = int(os.environ.get("OFFBEAT_POCKET_WORKERS", "1"))
"""Processes that write captions."""
SCALE = float(os.environ.get("OFFBEAT_POCKET_SCALE", "1"))
"""How many views and rows of a batch there are, of those an accelerator has."""


def scaled(count: int, least: int = 4) -> int:
    """Return a size for this machine: ``$OFFBEAT_POCKET_SCALE`` times an accelerator's."""
    return max(least, round(count * SCALE))


class Pool:
    """Views in bytes, of which a few are made anew with every step: endless, and cheap."""

    def __init__(
        self,
        pictures: data.Pictures,
        size: int,
        *,
        seed: int,
        wide: bool = False,
        settings: world.Settings = world.Settings(),  # noqa: B008, it is frozen
        fresh: int = 43,
        read: Reading | None = None,
    ) -> None:
        """Fill it.

        Args:
            pictures: The drawings.
            size: How many views it holds.
            seed: Of its stream.
            wide: Whether it shows the concepts that only the autoencoder and the judge see.
            settings: What is made.
            fresh: Views that are made anew with every step.
            read: What is kept of each beside its picture, under ``read``.
        """
        self.pictures, self.settings, self.fresh, self.read = pictures, settings, fresh, read
        self.rows = pictures.rows(held_out=False, wide=wide)
        self.weights = world.weights_of(pictures, self.rows)
        self.generator = loop.random(seed)
        self.columns: dict[str, Tensor] = {}
        self.size, self.start = size, 0
        for start in range(0, size, 256):
            self.renew(min(256, size - start))

    @torch.no_grad()
    def renew(self, count: int) -> None:
        """Make ``count`` views in the place of the oldest."""
        with loop.autocast(False):
            made = draw(
                self.pictures, self.rows, self.weights, count, self.generator, self.settings
            )
            columns = {name: getattr(made, name) for name in made.__slots__}
            if self.read is not None:
                columns["read"] = self.read(made.images)
        columns["images"] = (made.images * 255).round().to(torch.uint8)
        places = (self.start + torch.arange(count)) % self.size
        self.start = (self.start + count) % self.size
        for name, value in columns.items():
            empty = torch.zeros(self.size, *value.shape[1:], dtype=value.dtype)
            self.columns.setdefault(name, empty)[places] = value

    def pick(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return ``count`` views, pictures as bytes, once a few are made anew."""
        self.renew(min(self.fresh, self.size))
        places = torch.randint(0, self.size, (count,), generator=generator)
        return {name: values[places] for name, values in self.columns.items()}


def draw(
    pictures: data.Pictures,
    rows: Tensor,
    weights: Tensor,
    count: int,
    generator: torch.Generator,
    settings: world.Settings,
) -> world.Scenes:
    """Return views of drawings out of ``rows``, each with another that it may be mixed with."""
    taken = rows[torch.multinomial(weights, count, replacement=True, generator=generator)]
    others = world.partners(pictures, taken, generator)
    return world.make(pictures, taken, others, generator, settings)


def fixed(
    pictures: data.Pictures,
    count: int,
    *,
    seed: int,
    settings: world.Settings = world.Settings(),  # noqa: B008, it is frozen
    **readings: Reading,
) -> dict[str, Tensor]:
    """Return ``count`` views without their pictures: labels, and what ``readings`` give."""
    rows = pictures.rows(held_out=False)
    weights, generator = world.weights_of(pictures, rows), loop.random(seed)
    columns: dict[str, list[Tensor]] = {}
    for start in range(0, count, 512):
        size = min(512, count - start)
        with torch.no_grad():
            made = draw(pictures, rows, weights, size, generator, settings)
            row = {name: read(made.images) for name, read in readings.items()}
        row |= {name: getattr(made, name) for name in made.__slots__ if name != "images"}
        row["labels"] = captions.labels_of(pictures, made)
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return {name: torch.cat(parts) for name, parts in columns.items()}


def held_out(
    pictures: data.Pictures, kind: str, *, seed: int, views: int = 1
) -> tuple[world.Scenes, Tensor, Tensor]:
    """Return views of one kind of held-out drawings alone, and both things in each, ``[B]``."""
    rows, generator = pictures.rows(held_out=True), loop.random(seed)
    first = rows.repeat(views)
    others = rows[torch.randint(0, len(rows), (len(first),), generator=generator)]
    while len(same := (pictures.concept[others] == pictures.concept[first]).nonzero().flatten()):
        others[same] = rows[torch.randint(0, len(rows), (len(same),), generator=generator)]
    weights = tuple(float(name == kind) for name in world.KINDS)
    settings = world.Settings(weights=weights, tint=0, background=0)
    scenes = world.make(pictures, first, others, generator, settings)
    return scenes, pictures.concept[first], pictures.concept[others]


def clean(pictures: data.Pictures, rows: Tensor) -> Tensor:
    """Return drawings as they are, on white, ``[B, 3, H, W]``, 0 to 1."""
    return world.make(pictures, rows, rows, loop.random(0), world.PLAIN).images


def as_input(images: Tensor) -> Tensor:
    """Return pictures in bytes as models take them, -1 to 1."""
    return augment.normalise(images.float() / 255)
