"""What a result cost in network evaluations, by whatever method it was made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from offbeat.protocols import CountsEvaluations
from offbeat.types import Evaluations


@contextmanager
def counted(backbone: object) -> Iterator[Evaluations | None]:
    """Count what a block asks of a backbone's networks; None if it cannot count.

    What comes from a cache or a checkpoint of an earlier process was not asked, and is not counted.

    Args:
        backbone: A loaded one. Several blocks may be open at once: each counts all of its own.
    """
    if isinstance(backbone, CountsEvaluations):
        with backbone.counting() as evaluations:
            yield evaluations
    else:
        yield None
