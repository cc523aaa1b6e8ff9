"""Arousal along a search: interest should rise, then fall.

The paper asked people. Where nobody rates, ``stand_in`` does, from what is measured; its shape is
part of the claim's wording, so the page names it a stand-in wherever it is shown.
Source: Song and Elgammal, arXiv:2601.22125; Berlyne, Aesthetics and Psychobiology, 1971.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from offbeat.bench.cells import Item
from offbeat.bench.lab import Outcome
from offbeat.bench.programs.explore import Explore
from offbeat.bench.spec import Way
from offbeat.metrics.arousal import fit_arousal

FARTHEST = 3.0
"""Seen novelty at which a stand-in stops growing."""


class Arousal(Explore):
    """Cells of one search, each a curve over steps."""

    def cell(self, way: Way, item: Item, seed: int) -> Outcome:
        """Search, judge pictures along the way, and return the curve."""
        outcome = super().cell(way, item, seed)
        steps = self.table.looks if way.looks is None else way.looks
        last = int(self.table.options["num_steps"])
        start = self.valid(self.lab.ordinary(item.value), item.value)
        points = [(0, 1.0, start)]
        points += [(step, *self._at(outcome.readings, f"@{step}")) for step in steps]
        points.append((last, *self._at(outcome.readings, "")))
        curve = [(step, seen, stand_in(seen, valid)) for step, seen, valid in points]
        fitted = fit_arousal([seen for _, seen, _ in curve], [rating for *_, rating in curve]).peak
        readings = {
            "start": curve[0][2],
            "middle": curve[len(curve) // 2][2],
            "end": curve[-1][2],
            "fitted peak": float("nan") if fitted is None else fitted,
            "valid": outcome.readings["valid"],
        }
        return replace(outcome, readings=readings, extra={"curve": curve})

    @staticmethod
    def _at(readings: Mapping[str, float], where: str) -> tuple[float, float]:
        return readings[f"seen{where}"], readings[f"valid{where}"]


def stand_in(seen: float, valid: float) -> float:
    """Return a stand-in rating, 0 to 5; it replaces the rating of a person.

    1 is the ordinary picture and 0 no longer the subject, as in the paper's study; between them it
    grows with seen novelty up to three times the ordinary. The search drives the distance of
    embeddings, which is no part of it.

    Args:
        seen: Seen novelty; 1 is just another ordinary picture.
        valid: Share of pictures that are still the subject, 0 to 1.

    >>> stand_in(1.0, 1.0), stand_in(3.0, 1.0), stand_in(9.0, 0.5)
    (1.0, 5.0, 2.5)
    """
    grown = min(max(seen - 1, 0.0) / (FARTHEST - 1), 1.0)
    return valid * (1 + 4 * grown)
