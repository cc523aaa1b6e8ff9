"""Count the network evaluations that a result cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

from offbeat.types import Evaluations


@contextmanager
def counted(backbone: object) -> Iterator[Evaluations | None]:
    """Count what a block asks of a backbone's networks; None if it cannot count.

    What comes from a cache or a checkpoint of an earlier process was not asked, and is not counted.

    Args:
        backbone: A loaded one. Several blocks may be open at once: each counts all of its own.
    """
    if hasattr(backbone, "counting"):
        with backbone.counting() as evaluations:
            yield evaluations
    else:
        yield None


class Meter:
    """Counts what a block asks of every backbone that it takes up."""

    def __init__(self, open_blocks: ExitStack) -> None:
        self._open = open_blocks
        self._counts: dict[int, Evaluations | None] = {}

    def watch(self, backbone: object) -> None:
        """Count a backbone from now on, to the end of the block."""
        if id(backbone) not in self._counts:
            self._counts[id(backbone)] = self._open.enter_context(counted(backbone))

    @property
    def spent(self) -> Evaluations | None:
        """What was asked of all of them; None if there was none, or one that cannot count."""
        known = [part for part in self._counts.values() if part is not None]
        if not known or len(known) < len(self._counts):
            return None
        return Evaluations(sum(part.denoiser for part in known), sum(part.prior for part in known))


_METERS: ContextVar[tuple[Meter, ...]] = ContextVar("meters", default=())


@contextmanager
def metered() -> Iterator[Meter]:
    """Count what a block asks of the backbones that ``watch`` is told of in it."""
    with ExitStack() as open_blocks:
        meter = Meter(open_blocks)
        token = _METERS.set((*_METERS.get(), meter))
        try:
            yield meter
        finally:
            _METERS.reset(token)


def watch(backbone: object) -> None:
    """Tell the meters that are open of a backbone; without one this does nothing."""
    for meter in _METERS.get():
        meter.watch(backbone)
