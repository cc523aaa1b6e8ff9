"""How many CPU threads torch uses: few for the many small products of a search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from offbeat.protocols import TextBackbone

SMALL_WIDTH = 512
"""Width of a token vector up to which a network counts as small."""
_outside: list[int] = []
"""Threads outside of each ``few_threads`` that is open, the innermost last."""


@contextmanager
def few_threads(backbone: TextBackbone) -> Iterator[None]:
    """Use one CPU thread while a small network runs, and restore the number after.

    A step of pocket is hundreds of small products: two threads gain nothing on a quiet machine,
    and on a busy one they wait for each other. With one thread the result does not depend on the
    number of threads, either.
    """
    before = torch.get_num_threads()
    small = backbone.token_embed("a").numel() <= SMALL_WIDTH
    if backbone.device.type == "cpu" and small:
        torch.set_num_threads(1)
    _outside.append(before)
    try:
        yield
    finally:
        _outside.pop()
        torch.set_num_threads(before)


@contextmanager
def usual_threads() -> Iterator[None]:
    """Inside ``few_threads``, use as many as outside: for pictures, which are large products.

    The last bits of a picture depend on the number of threads: round what is read of it.
    """
    before = torch.get_num_threads()
    if _outside:
        torch.set_num_threads(_outside[-1])
    try:
        yield
    finally:
        torch.set_num_threads(before)
