"""The world that pocket learns: drawings, and rare shapes, colours, textures and mixtures of them.

A model of drawings alone can only draw them again. So a view here is a drawing, or one whose shape
is bent, whose colours are another drawing's, whose surface is another drawing or a pattern, or
which another drawing is grafted on. Its labels are shares: of which thing it is how much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from recipes.pocket import augment, data, sources
from torch import Tensor
from torch.nn import functional as F

KINDS = ("plain", "shape", "palette", "texture", "pattern", "graft", "addon")
WEIGHTS = (0.36, 0.15, 0.10, 0.14, 0.08, 0.12, 0.05)
"""How often each kind of view is made."""
SHARES = (1.0, 1.0, 1.0, 0.6, 1.0, 0.5, 0.75)
"""How much of a view of each kind is its first drawing; the rest is the other one."""
PATTERNS = ("striped", "spotted", "checkered", "zigzag")
SAME_STYLE = 0.6
"""How often the other drawing is by the same hand."""
MAIN_STYLES = ("soft", "flat", "glossy", "simple", "3d")
"""Styles that are seen at full weight: five hands that draw nearly alike."""
LIGHT = (0.30, 0.59, 0.11)
SHADE = (0.35, 1.35)
"""Darkest and brightest that a surface becomes from the light and shade of what it covers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is made, and how often."""

    weights: tuple[float, ...] = WEIGHTS
    tint: float = 0.2
    background: float = 0.15
    looks: augment.Looks = augment.Looks()  # noqa: RUF009, it is frozen


PLAIN = Settings(weights=(1, 0, 0, 0, 0, 0, 0), tint=0, background=0, looks=augment.CLEAN)


@dataclass(frozen=True, slots=True)
class Scenes:
    """Views, and what each is.

    Attributes:
        images: ``[B, 3, H, W]``, 0 to 1.
        rows: ``[B]``, the first drawing.
        others: ``[B]``, the other drawing, whether used or not.
        kinds: ``[B]``, index of ``KINDS``.
        tints: ``[B]``, index of ``augment.COLOURS``; -1 is none.
        backgrounds: ``[B]``, index of ``augment.BACKGROUNDS``; 0 is white.
        patterns: ``[B]``, index of ``PATTERNS``; -1 is none.
    """

    images: Tensor
    rows: Tensor
    others: Tensor
    kinds: Tensor
    tints: Tensor
    backgrounds: Tensor
    patterns: Tensor


def weights_of(pictures: data.Pictures, rows: Tensor) -> Tensor:
    """Return how often each drawing is taken: those of rare things and of the main hands more."""
    counts = torch.bincount(pictures.concept[rows], minlength=len(pictures.concepts)).float()
    main = torch.tensor([style in MAIN_STYLES for style in sources.STYLES])
    return counts[pictures.concept[rows]] ** -0.5 * torch.where(main[pictures.style[rows]], 1, 0.4)


def partners(pictures: data.Pictures, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Return another training drawing for each, six times of ten by the same hand."""
    known = pictures.rows(held_out=False)
    by_style = [known[pictures.style[known] == style] for style in range(len(sources.STYLES))]
    counts = torch.tensor([len(part) for part in by_style])
    table = torch.stack([F.pad(part, (0, int(counts.max()) - len(part))) for part in by_style])
    style = pictures.style[rows]
    place = (torch.rand(len(rows), generator=generator) * counts[style]).long()
    anyone = known[torch.randint(0, len(known), (len(rows),), generator=generator)]
    same = torch.rand(len(rows), generator=generator) < SAME_STYLE
    return torch.where(same & (counts[style] > 0), table[style, place], anyone)


def make(
    pictures: data.Pictures,
    rows: Tensor,
    others: Tensor,
    generator: torch.Generator,
    settings: Settings = Settings(),
) -> Scenes:
    """Return a view of each drawing in ``rows``, ``[B]``, some with the one in ``others``."""
    count = len(rows)
    weights = torch.tensor(settings.weights, dtype=torch.float32)
    kinds = torch.multinomial(weights, count, replacement=True, generator=generator)
    first, second = (pictures.rgba[part].float() / 255 for part in (rows, others))
    flipped = torch.rand(count, generator=generator) < 0.5
    if settings.looks != augment.CLEAN:
        first = torch.where(flipped[:, None, None, None], first.flip(-1), first)
    rgb, alpha = first[:, :3].clone(), first[:, 3:]
    tints = torch.randint(0, len(augment.COLOURS), (count,), generator=generator)
    is_plain = torch.rand(count, generator=generator) >= settings.tint
    tints[is_plain | (kinds > KINDS.index("shape"))] = -1
    if len(tinted := (tints >= 0).nonzero().flatten()):
        colours = torch.tensor(list(augment.COLOURS.values()))[tints[tinted]]
        rgb[tinted] = augment.recolour(rgb[tinted], colours)
    if len(part := _of(kinds, "palette")):
        rgb[part] = _repainted(rgb[part], alpha[part], second[part])
    patterns = torch.full((count,), -1)
    if len(part := _of(kinds, "texture")):
        rgb[part] = _covered(rgb[part], alpha[part], _texture(second[part], generator))
    if len(part := _of(kinds, "pattern")):
        surface, patterns[part] = _pattern(len(part), first.shape[-1], generator)
        rgb[part] = _covered(rgb[part], alpha[part], surface)
    drawing = torch.cat([rgb * alpha, alpha], dim=1)
    second = torch.cat([second[:, :3] * second[:, 3:], second[:, 3:]], dim=1)
    if len(part := _of(kinds, "graft")):
        drawing[part] = _grafted(drawing[part], second[part], generator)
    if len(part := _of(kinds, "addon")):
        drawing[part] = _with_small(drawing[part], second[part], generator)
    if settings.looks != augment.CLEAN:
        drawing = _bent(drawing, _amounts(kinds, generator), generator)
    backgrounds = torch.randint(1, len(augment.BACKGROUNDS), (count,), generator=generator)
    backgrounds[torch.rand(count, generator=generator) >= settings.background] = 0
    warped = augment.warp(drawing, settings.looks, generator)
    behind = torch.tensor(list(augment.BACKGROUNDS.values()))[backgrounds][:, :, None, None]
    images = (warped[:, :3] + behind * (1 - warped[:, 3:])).clamp(0, 1)
    return Scenes(images, rows, others, kinds, tints, backgrounds, patterns)


def shares(kinds: Tensor) -> Tensor:
    """Return how much of each view is its first drawing, ``[B]``."""
    return torch.tensor(SHARES)[kinds]


def _of(kinds: Tensor, name: str) -> Tensor:
    return (kinds == KINDS.index(name)).nonzero().flatten()


def _light(rgb: Tensor) -> Tensor:
    return (rgb * torch.tensor(LIGHT).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _mean(values: Tensor, alpha: Tensor) -> Tensor:
    """Return the mean of ``[B, C, H, W]`` over what is drawn."""
    return (values * alpha).sum((2, 3), keepdim=True) / alpha.sum((2, 3), keepdim=True).clamp_min(1)


def _repainted(rgb: Tensor, alpha: Tensor, other: Tensor) -> Tensor:
    """Return colours moved to the mean and spread of another drawing's."""
    means, spreads = [], []
    for values, drawn in ((rgb, alpha), (other[:, :3], other[:, 3:])):
        means.append(_mean(values, drawn))
        spreads.append(_mean((values - means[-1]) ** 2, drawn).sqrt().clamp_min(0.05))
    return ((rgb - means[0]) / spreads[0] * spreads[1] + means[1]).clamp(0, 1)


def _covered(rgb: Tensor, alpha: Tensor, surface: Tensor) -> Tensor:
    """Return a drawing under a surface that keeps its light and shade."""
    light = _light(rgb)
    shade = (1 + 0.8 * (light - _mean(light, alpha))).clamp(*SHADE)
    return 0.88 * (surface * shade).clamp(0, 1) + 0.12 * rgb


def _texture(rgba: Tensor, generator: torch.Generator) -> Tensor:
    """Return the inside of drawings, enlarged, with no background left."""
    rgb, alpha = rgba[:, :3], rgba[:, 3:]
    filled = rgb * alpha + _mean(rgb, alpha) * (1 - alpha)
    theta = torch.zeros(len(rgba), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.rand(len(rgba), generator=generator) * 0.35 + 0.45
    theta[:, :, 2] = (torch.rand(len(rgba), 2, generator=generator) - 0.5) * 0.5
    grid = F.affine_grid(theta, list(filled.shape), align_corners=False)
    return F.grid_sample(filled, grid, padding_mode="reflection", align_corners=False)


def _grid(side: int) -> tuple[Tensor, Tensor]:
    """Return coordinates y and x, ``[1, side, side]``, -1 to 1."""
    line = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return y[None], x[None]


def _pattern(count: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return two-coloured surfaces, ``[B, 3, side, side]``, and which pattern each is."""
    y, x = _grid(side)
    which = torch.randint(0, len(PATTERNS), (count,), generator=generator)
    colours = torch.tensor(list(augment.COLOURS.values()))
    pair = torch.rand(count, len(colours), generator=generator).topk(2, dim=1).indices
    dark, bright = (colours[pair[:, side]][:, :, None, None] for side in (0, 1))
    turn = (torch.rand(count, generator=generator) * math.pi).view(-1, 1, 1)
    often = (6 + 8 * torch.rand(count, generator=generator)).view(-1, 1, 1)
    along, across = x * turn.cos() + y * turn.sin(), -x * turn.sin() + y * turn.cos()
    waves, other = torch.sin(often * along), torch.sin(often * across)
    teeth = torch.sin(often * (along + 0.25 * (((across * often / 4) % 1) - 0.5).abs()))
    masks = [8 * waves, 10 * (waves * other - 0.35), 12 * waves * other, 8 * teeth]
    mask = torch.stack(masks, dim=1)[torch.arange(count), which].sigmoid()[:, None]
    return dark * mask + bright * (1 - mask), which


def _grafted(first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """Return one drawing above a soft edge and another below it, or side by side."""
    count = len(first)
    y, x = _grid(first.shape[-1])
    turn = torch.randn(count, generator=generator) * 0.35
    turn = turn + math.pi / 2 * (torch.rand(count, generator=generator) < 0.25)
    turn, offset = (
        part.view(-1, 1, 1) for part in (turn, torch.randn(count, generator=generator) * 0.15)
    )
    mask = torch.sigmoid(14 * (y * turn.cos() + x * turn.sin() - offset))[:, None]
    return first * mask + second * (1 - mask)


def _with_small(first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """Return a drawing with another on it, a half as large or less."""
    count = len(first)
    zoom = 1 / (0.38 + 0.2 * torch.rand(count, generator=generator))
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = (torch.rand(count, 2, generator=generator) - 0.5) * 1.1 * zoom[:, None]
    grid = F.affine_grid(theta, list(first.shape), align_corners=False)
    small = F.grid_sample(second, grid, align_corners=False)
    return small + first * (1 - small[:, 3:])


def _amounts(kinds: Tensor, generator: torch.Generator) -> Tensor:
    """Return how far drawings are bent, ``[B]``: half of them a little, some with a long tail."""
    count = len(kinds)
    little = torch.randn(count, generator=generator).abs() * 0.05
    little = little * (torch.rand(count, generator=generator) < 0.5)
    much = 0.06 + torch.randn(count, generator=generator).abs() * 0.09
    return torch.where(kinds == KINDS.index("shape"), much, little)


def _bent(drawing: Tensor, amounts: Tensor, generator: torch.Generator) -> Tensor:
    """Return drawings pulled along a smooth random field, and stretched."""
    count, _, height, width = drawing.shape
    field = torch.randn(count, 2, 4, 4, generator=generator)
    field = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True)
    field = field.permute(0, 2, 3, 1) * amounts.view(-1, 1, 1, 1)
    stretch = torch.exp(torch.randn(count, 2, generator=generator) * (amounts[:, None] * 2.2))
    still = torch.eye(2, 3).expand(count, 2, 3)
    grid = F.affine_grid(still, [count, 1, height, width], align_corners=False)
    grid = grid * stretch.clamp(0.55, 1.8).view(-1, 1, 1, 2) + field
    return F.grid_sample(drawing, grid, align_corners=False)
