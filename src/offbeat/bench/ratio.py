"""Time two ways side by side and report their ratio."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

SCALE = 4.0
"""The paper's guidance; both halves of guidance are run, as in the plain pipeline."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One comparison; times in seconds, ratios plain / ours, run by run."""

    what: str
    ours: list[float]
    plain: list[float]
    difference: float
    """Largest difference of the results, relative to the largest entry."""

    @property
    def ratios(self) -> list[float]:
        """The ratio of each pair of runs."""
        return [plain / ours for ours, plain in zip(self.ours, self.plain, strict=True)]


def pair(
    what: str,
    ours: Callable[[], Tensor],
    plain: Callable[[], Tensor],
    runs: int,
) -> Ratio:
    """Time two ways to one result in turn, after one warm-up run of each."""
    result, expected = ours(), plain()  # a warm-up, and the comparison
    gap = float((result - expected).abs().max() / expected.abs().max())
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for side, call in zip(times, (ours, plain), strict=True):
            started = time.perf_counter()
            call()
            side.append(time.perf_counter() - started)
    return Ratio(what, *times, gap)
