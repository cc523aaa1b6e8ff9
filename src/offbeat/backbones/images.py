"""What every adapter does with pictures: read them by CLIP, and draw them in batches that fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.checkpoints.offload import runs_on
from offbeat.checkpoints.weights import json_object
from offbeat.core.checks import check_shape
from offbeat.errors import CheckpointError

PixelStats = tuple[list[float], list[float]]
"""Mean and standard deviation of each colour, as an image encoder was trained with."""


def read_pixel_stats(folder: Path) -> PixelStats:
    """Return mean and spread of the pixels from an image processor's folder.

    Raises:
        CheckpointError: If it does not say them.
    """
    config = folder / "preprocessor_config.json"
    pixels = json_object(config, expected="an image processor")
    stats = [pixels.get(name) for name in ("image_mean", "image_std")]
    if not all(isinstance(values, list) and len(values) == 3 for values in stats):
        raise CheckpointError(f"{config}: expected image_mean and image_std, three numbers each")
    try:
        mean, spread = ([float(value) for value in values or ()] for values in stats)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{config}: expected numbers ({error})") from error
    if not all(math.isfinite(value) for value in mean) or not all(0 < s < 1e6 for s in spread):
        raise CheckpointError(f"{config}: expected a spread above 0, got {spread}")
    return mean, spread


def clip_pixels(images: Tensor, size: int, stats: PixelStats, like: Any) -> Tensor:
    """Return ``images``, ``[B, 3, H, W]``, 0 to 1, as the encoder ``like`` reads them.

    The whole picture is resized to ``size`` x ``size``; nothing is cropped.
    """
    check_shape("images", images, None, 3, None, None)
    device = runs_on(like)
    images = images.to(device)
    if images.shape[-2:] != (size, size):
        images = torch.nn.functional.interpolate(
            images, (size, size), mode="bicubic", antialias=True
        ).clamp(0, 1)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in stats)
    pixels: Tensor = ((images - mean) / std).to(like.dtype)
    return pixels


def in_batches(
    draw: Callable[[slice], Tensor], count: int, size: int, noises: Sequence[torch.Generator]
) -> Tensor:
    """Concatenate ``draw`` over slices of ``size``, halved whenever memory runs out.

    The streams are set back before a slice is drawn again, so halving changes no picture.
    """
    parts, start = [], 0
    while start < count:
        rows = slice(start, start + size)
        states = [noise.get_state() for noise in noises[rows]]
        try:
            parts.append(draw(rows))
            start += size
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
            for noise, state in zip(noises[rows], states, strict=True):
                noise.set_state(state)
            size = max(1, size // 2)
    return torch.cat(parts)
