"""Named random streams: every ``torch.Generator`` of Offbeat is made here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def stream(seed: int, *purpose: str | int) -> torch.Generator:
    """Return the random stream of one named purpose, on the CPU.

    Streams of two purposes are unrelated, so a preview, a log line or one image more
    in the batch cannot change another result. CPU noise is the same on every device.

    >>> stream(7, "prior", 0).initial_seed() == stream(7, "preview", 0).initial_seed()
    False
    """
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)


def streams(seed: int, *purpose: str | int, num: int, start: int = 0) -> list[torch.Generator]:
    """Return one stream for each of ``num`` samples, numbered from ``start``.

    Sample i has its own stream, so its noise is the same in a batch of any size. What a network
    makes of it is the same up to rounding: see ``docs/files.md``.
    """
    return [stream(seed, *purpose, index) for index in range(start, start + num)]


def normal(
    shape: Sequence[int],
    generator: torch.Generator | Sequence[torch.Generator],
    device: torch.device | None = None,
) -> Tensor:
    """Return standard normal noise of a shape, always float32.

    The half types are other streams of numbers on some machines, so noise is cast after it is
    drawn, never drawn in them.

    Args:
        shape: ``[B, ...]``.
        generator: One stream, or one for each of B.
        device: Where it is moved; None leaves it where the stream is.
    """
    if isinstance(generator, torch.Generator):
        drawn = torch.randn(*shape, generator=generator, device=generator.device)
    else:
        rows = [torch.randn(1, *shape[1:], generator=g, device=g.device) for g in generator]
        drawn = torch.cat(rows)
    return drawn if device is None else drawn.to(device)
