"""Cut a picture into parts by colour: a segmenter that needs no weights.

It stands in for the published Segment Anything: colours are put into a few clusters, and each
connected patch of one cluster is a part. It knows shapes by their paint alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from offbeat.core.checks import check_range, check_shape
from offbeat.errors import ConfigError
from offbeat.protocols import Segments

_ROUNDS = 10
"""Of Lloyd's algorithm; a few colours have settled by then."""


class ColourSegmenter:
    """Connected patches of like colour, without the patch around them that is the ground."""

    name = "colour"

    def __init__(self, *, num_colours: int = 5, side: int = 64, min_share: float = 0.02) -> None:
        """Set what counts as a part.

        Args:
            num_colours: Clusters of colour, 2 or more.
            side: Larger pictures are cut at this size, in pixels.
            min_share: Share of the picture below which a patch is no part, 0 to 1.
        """
        check_range("num_colours", num_colours, 2, 64)
        check_range("side", side, 1, 4096)
        check_range("min_share", min_share, 0, 1)
        self.num_colours, self.side, self.min_share = num_colours, side, min_share

    @torch.no_grad()
    def segments(self, images: Tensor) -> list[Tensor]:
        """Return the parts of each picture, ``[K, H, W]``, bool; all of it where there is none."""
        check_shape("images", images, None, 3, None, None)
        height, width = images.shape[-2:]
        scale = min(1.0, self.side / max(height, width))
        size = [max(1, round(length * scale)) for length in (height, width)]
        small = F.interpolate(images.float().cpu(), size, mode="area")
        parts = []
        for picture in small:
            masks = self._parts(picture)
            if len(masks) == 0:
                masks = torch.ones(1, *size, dtype=torch.bool)
            grown = F.interpolate(masks[None].float(), (height, width), mode="nearest")[0]
            parts.append(grown.bool().to(images.device))
        return parts

    def _parts(self, picture: Tensor) -> Tensor:
        """Return the patches of one small picture, ``[K, h, w]``, largest first."""
        colours = clusters(picture.flatten(1).T, self.num_colours).view(picture.shape[1:])
        numbered = patches(colours)
        ids, counts = numbered.unique(return_counts=True)
        border = torch.cat([numbered[0], numbered[-1], numbered[:, 0], numbered[:, -1]])
        edges, lengths = border.unique(return_counts=True)
        kept = []
        for identity, count in sorted(
            zip(ids.tolist(), counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0])
        ):
            on_border = int(lengths[edges == identity].sum())
            is_ground = 2 * on_border > len(border)
            if count >= self.min_share * numbered.numel() and not is_ground:
                kept.append(numbered == identity)
        return torch.stack(kept) if kept else torch.zeros(0, *numbered.shape, dtype=torch.bool)


def clusters(points: Tensor, num: int) -> Tensor:
    """Return the cluster of each point, ``[n]``, by k-means from the farthest points.

    Args:
        points: ``[n, d]``.
        num: Clusters at most: equal points share one.
    """
    middle = points.mean(dim=0, keepdim=True)
    centres = points[torch.cdist(points, middle).argmax()][None]
    while len(centres) < num:
        far = torch.cdist(points, centres).min(dim=1).values
        if float(far.max()) == 0:
            break
        centres = torch.cat([centres, points[far.argmax()][None]])
    for _ in range(_ROUNDS):
        nearest = torch.cdist(points, centres).argmin(dim=1)
        members = F.one_hot(nearest, len(centres)).to(points)
        counts = members.sum(dim=0)[:, None]
        centres = torch.where(counts > 0, members.T @ points / counts.clamp_min(1), centres)
    return torch.cdist(points, centres).argmin(dim=1)


def patches(labels: Tensor) -> Tensor:
    """Return a number for each connected patch of equal labels, ``[h, w]``; corners do not join."""
    height, width = labels.shape
    numbers = torch.arange(1, height * width + 1).view(height, width)
    while True:  # the largest number in a patch spreads through it
        spread = numbers
        for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
            length = labels.shape[axis]
            here = slice(1, length) if shift > 0 else slice(0, length - 1)
            there = slice(0, length - 1) if shift > 0 else slice(1, length)
            at, near = ((here, slice(None)), (there, slice(None)))
            if axis:
                at, near = ((slice(None), here), (slice(None), there))
            same = labels[at] == labels[near]
            spread = spread.clone()
            spread[at] = torch.where(same, spread[at].maximum(spread[near]), spread[at])
        if torch.equal(spread, numbers):
            return numbers
        numbers = spread


def find_segmenter(name: str) -> Segments | None:
    """Return a segmenter by name: ``colour``, or ``none``.

    Raises:
        ConfigError: If there is no such one.
    """
    if name == "none":
        return None
    if name == ColourSegmenter.name:
        return ColourSegmenter()
    raise ConfigError(f"segmenter: expected colour or none, got {name!r}")
