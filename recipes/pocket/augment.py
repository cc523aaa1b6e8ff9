"""Move, recolour and spoil drawings, from a seeded stream."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

IMAGE_SIZE = 128
COLOURS = {
    "red": (0.90, 0.16, 0.18),
    "orange": (0.97, 0.55, 0.10),
    "yellow": (0.99, 0.85, 0.20),
    "green": (0.20, 0.65, 0.28),
    "blue": (0.18, 0.42, 0.88),
    "purple": (0.55, 0.25, 0.75),
    "pink": (0.98, 0.55, 0.72),
    "brown": (0.52, 0.32, 0.18),
    "gray": (0.55, 0.56, 0.58),
    "black": (0.12, 0.12, 0.13),
}
BACKGROUNDS = {
    "white": (1.0, 1.0, 1.0),
    "red": (0.93, 0.45, 0.43),
    "yellow": (0.98, 0.90, 0.50),
    "green": (0.55, 0.80, 0.52),
    "blue": (0.50, 0.72, 0.95),
    "purple": (0.72, 0.58, 0.88),
    "pink": (0.98, 0.78, 0.85),
    "gray": (0.75, 0.76, 0.78),
    "black": (0.10, 0.10, 0.11),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """How far a picture may stray from its drawing."""

    scale: float = 0.10
    shift: float = 0.05
    turn: float = 0.07
    """Largest rotation, radians."""


CLEAN = Looks(scale=0, shift=0, turn=0)


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return ``[count]`` draws between two limits."""
    return torch.rand(count, generator=generator) * (high - low) + low


def warp(rgba: Tensor, looks: Looks, generator: torch.Generator) -> Tensor:
    """Shift, scale, turn and mirror premultiplied drawings, ``[B, 4, 160, 160]`` to 128 px."""
    count = len(rgba)
    scale = 1 / (1 + uniform(count, -looks.scale, looks.scale / 2, generator))
    turn = uniform(count, -looks.turn, looks.turn, generator)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    if looks == CLEAN:
        mirror = torch.ones(count)
    shift = uniform(2 * count, -2 * looks.shift, 2 * looks.shift, generator).view(count, 2)
    cos, sin = turn.cos() * scale, turn.sin() * scale
    theta = torch.stack(
        [
            torch.stack([mirror * cos, -sin, shift[:, 0]], dim=1),
            torch.stack([mirror * sin, cos, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    size = [count, 4, IMAGE_SIZE, IMAGE_SIZE]
    grid = F.affine_grid(theta, size, align_corners=False)
    return F.grid_sample(rgba, grid, mode="bilinear", align_corners=False)


def recolour(rgb: Tensor, colours: Tensor) -> Tensor:
    """Paint drawings in one colour, keeping light and shade; ``[B, 3, H, W]``, ``[B, 3]``."""
    light = (rgb * torch.tensor([0.30, 0.59, 0.11]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    colours = colours[:, :, None, None]
    dark, bright = colours * 0.3, colours * 0.45 + 0.55
    ramp = torch.where(
        light < 0.5,
        dark + (colours - dark) * (light * 2),
        colours + (bright - colours) * (light * 2 - 1),
    )
    return 0.85 * ramp + 0.15 * rgb


def degrade(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, pixelate, add noise, jitter colours and cut out, each on its own part of a batch."""
    count, size = len(images), images.shape[-1]

    def chosen(share: float) -> Tensor:
        return (torch.rand(count, generator=generator) < share)[:, None, None, None]

    side = int(size * (0.2 + 0.42 * torch.rand(1, generator=generator)))
    small = F.interpolate(images, size=side, mode="bilinear", antialias=True)
    small = F.interpolate(small, size=size, mode="bicubic")
    images = torch.where(chosen(0.4), small, images)
    sigma = uniform(count, 0, 0.12, generator)[:, None, None, None]
    coarse = F.interpolate(torch.randn(count, 3, 16, 16, generator=generator), size=size)
    fine = torch.randn(images.shape, generator=generator)
    noise = torch.where(chosen(0.5), coarse, fine)
    images = torch.where(chosen(0.5), images + sigma * noise, images)
    gain = uniform(3 * count, 0.75, 1.25, generator).view(count, 3, 1, 1)
    offset = uniform(3 * count, -0.1, 0.1, generator).view(count, 3, 1, 1)
    images = torch.where(chosen(0.5), images * gain + offset, images)
    centre = torch.randint(0, size, (2, count, 1), generator=generator)
    line = torch.arange(size)
    half = int(size * (0.08 + 0.14 * torch.rand(1, generator=generator)))
    near = (line - centre).abs() < half
    hole = near[0][:, None, :, None] & near[1][:, None, None, :] & chosen(0.4)
    return torch.where(hole, images.mean((2, 3), keepdim=True), images).clamp(0, 1)


def normalise(images: Tensor) -> Tensor:
    """Map 0 to 1 onto -1 to 1, as all of pocket's models want it."""
    return images * 2 - 1


def with_article(words: str) -> str:
    """Put "a" or "an" before words.

    >>> with_article("owl"), with_article("red owl"), with_article("unicorn")
    ('an owl', 'a red owl', 'a unicorn')
    """
    vowel = words[0] in "aeiou" and not words.startswith(("uni", "eu"))
    return f"{'an' if vowel else 'a'} {words}"


def cosine_schedule(share: float, warm_up: float = 0.03, floor: float = 0.02) -> float:
    """Return the learning rate's factor after a share of the training, 0 to 1."""
    if share < warm_up:
        return share / warm_up
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
