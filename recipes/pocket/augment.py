"""Turn drawings into training pictures and captions, on the fly and from a seeded stream."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from recipes.pocket.data import Pictures
from torch import Tensor
from torch.nn import functional as F

IMAGE_SIZE = 64
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
    tint: float = 0.2
    """Share of pictures that are recoloured."""
    background: float = 0.3
    """Share of pictures that are not on white."""
    degrade: bool = False
    """Blur, low-pass, noise, cut-out and colour jitter, for the judge."""


CLEAN = Looks(scale=0, shift=0, turn=0, tint=0, background=0)


@dataclass(frozen=True, slots=True)
class Batch:
    """Training pictures: ``images`` ``[B, 3, 64, 64]`` in 0 to 1, and what made each."""

    images: Tensor
    rows: Tensor
    tints: Tensor
    backgrounds: Tensor


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return ``[count]`` draws between two limits."""
    return torch.rand(count, generator=generator) * (high - low) + low


def warp(rgba: Tensor, looks: Looks, generator: torch.Generator) -> Tensor:
    """Shift, scale, turn and mirror premultiplied drawings, ``[B, 4, 80, 80]`` to 64 px."""
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
    count = len(images)

    def chosen(share: float) -> Tensor:
        return (torch.rand(count, generator=generator) < share)[:, None, None, None]

    side = int(torch.randint(12, 40, (1,), generator=generator))
    small = F.interpolate(images, size=side, mode="bilinear", antialias=True)
    small = F.interpolate(small, size=IMAGE_SIZE, mode="bicubic")
    images = torch.where(chosen(0.4), small, images)
    sigma = uniform(count, 0, 0.12, generator)[:, None, None, None]
    coarse = F.interpolate(torch.randn(count, 3, 16, 16, generator=generator), size=IMAGE_SIZE)
    fine = torch.randn(images.shape, generator=generator)
    noise = torch.where(chosen(0.5), coarse, fine)
    images = torch.where(chosen(0.5), images + sigma * noise, images)
    gain = uniform(3 * count, 0.75, 1.25, generator).view(count, 3, 1, 1)
    offset = uniform(3 * count, -0.1, 0.1, generator).view(count, 3, 1, 1)
    images = torch.where(chosen(0.5), images * gain + offset, images)
    centre = torch.randint(0, IMAGE_SIZE, (2, count, 1), generator=generator)
    line = torch.arange(IMAGE_SIZE)
    half = int(torch.randint(5, 14, (1,), generator=generator))
    near = (line - centre).abs() < half
    hole = near[0][:, None, :, None] & near[1][:, None, None, :] & chosen(0.4)
    return torch.where(hole, images.mean((2, 3), keepdim=True), images).clamp(0, 1)


def make_batch(pictures: Pictures, rows: Tensor, looks: Looks, generator: torch.Generator) -> Batch:
    """Draw one picture of each row."""
    count = len(rows)
    rgba = pictures.rgba[rows].float() / 255
    tints = torch.randint(0, len(COLOURS), (count,), generator=generator)
    tints[torch.rand(count, generator=generator) >= looks.tint] = -1
    backgrounds = torch.randint(1, len(BACKGROUNDS), (count,), generator=generator)
    backgrounds[torch.rand(count, generator=generator) >= looks.background] = 0
    rgb, alpha = rgba[:, :3], rgba[:, 3:]
    tinted = tints >= 0
    if tinted.any():
        rgb = rgb.clone()
        rgb[tinted] = recolour(rgb[tinted], torch.tensor(list(COLOURS.values()))[tints[tinted]])
    warped = warp(torch.cat([rgb * alpha, alpha], dim=1), looks, generator)
    behind = torch.tensor(list(BACKGROUNDS.values()))[backgrounds][:, :, None, None]
    images = warped[:, :3] + behind * (1 - warped[:, 3:])
    if looks.degrade:
        images = degrade(images, generator)
    return Batch(images.clamp(0, 1), rows, tints, backgrounds)


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


class Captions:
    """Writes captions that say what is in a picture, more or less of it."""

    style_share = 0.25
    """Share of captions that name the style."""

    def __init__(self, pictures: Pictures, table: dict, styles: tuple[str, ...]) -> None:
        self.pictures, self.table, self.styles = pictures, table, styles
        self.colours, self.backgrounds = list(COLOURS), list(BACKGROUNDS)

    def __call__(self, row: int, tint: int, background: int, generator: torch.Generator) -> str:
        """Return one caption of one picture."""
        draw = torch.rand(8, generator=generator).tolist()
        name = self.pictures.concepts[int(self.pictures.concept[row])]
        entry = self.table[name]
        if draw[0] < 0.12:
            name = entry["classes"][int(draw[1] * len(entry["classes"]))]
        elif draw[0] < 0.22 and entry.get("synonyms"):
            name = entry["synonyms"][int(draw[1] * len(entry["synonyms"]))]
        if tint >= 0 and draw[2] < 0.85:
            name = f"{self.colours[tint]} {name}"
        kind = "picture" if draw[3] < 0.7 else ("drawing", "image")[draw[3] < 0.85]
        if draw[4] < self.style_share:
            kind = f"{self.styles[int(self.pictures.style[row])]} {kind}"
        thing = f"a {name}" if draw[5] < 0.3 else with_article(name)
        text = thing if draw[6] < 0.2 else f"{with_article(kind)} of {thing}"
        if draw[7] < (0.85 if background else 0.15):
            text += f" on {with_article(self.backgrounds[background])} background"
        return text


def cosine_schedule(share: float, warm_up: float = 0.03, floor: float = 0.02) -> float:
    """Return the learning rate's factor after a share of the training, 0 to 1."""
    if share < warm_up:
        return share / warm_up
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
