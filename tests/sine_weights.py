"""Weights that need no file: the same for the same names and shapes in any program."""

import math
import zlib

import torch


def sine(name, shape, scale=0.5):
    """Return numbers that look random and are none, ``[*shape]``."""
    count = math.prod(shape)
    turns = torch.arange(count, dtype=torch.float64) * 1.7 + zlib.crc32(name.encode()) % 1000
    # the square keeps the turns from being periodic in any row length
    return (scale * torch.sin(turns + 0.01 * turns.square())).reshape(shape).float()


def weights_of(shapes):
    """Return a state dict of names and shapes; norms are near 1, linear layers keep lengths."""
    found = {}
    for name, shape in shapes.items():
        if len(shape) == 1 and name.endswith("weight"):
            found[name] = 1 + sine(name, shape, 0.3)
        else:
            scale = 1.5 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.2
            found[name] = sine(name, shape, scale)
    return found


def picture(name, height, width):
    """Return a picture of bytes, ``[3, H, W]``, 0 to 1."""
    values = sine(name, (3, height, width)) + 0.5
    return (values * 255).round().clamp(0, 255) / 255
