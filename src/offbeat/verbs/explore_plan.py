"""What an exploration was asked, and what one of its searches found."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from offbeat.core.drawing import plain_concept
from offbeat.errors import ConfigError
from offbeat.methods.low_probability.choosing import Chosen
from offbeat.methods.low_probability.config import NAME, LowProbabilityConfig
from offbeat.protocols import ExploringBackbone
from offbeat.runs.map import Region
from offbeat.types import Concept, Request

NUM_REFERENCES, MAX_PER_MEMBER = 64, 8
"""Ordinary pictures that seen novelty is measured by, and of each member of a broad subject."""

NUM_FRESH = 64
"""Noises on which the reached distance is reported; the search has seen none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked, as asked."""

    subject: str
    prompt: str | None
    num_images: int
    seed: int
    num_trials: int
    avoid: tuple[str | Region, ...]
    unlike: tuple[str | tuple[str, ...], ...]
    judge: str
    config: LowProbabilityConfig
    taste: str | None = None
    """A file of preferences."""
    start: str | None = None
    """Goes on from this run, or this step of it."""
    directions: int = 1
    """Searches that keep away from each other."""
    candidates: int = 1
    """So many times as many pictures are drawn as are shown."""

    @property
    def away(self) -> tuple[str | Region | tuple[str, ...], ...]:
        """What to keep away from, in the order of the clusters."""
        return (*self.avoid, *self.unlike)

    def request(self, seed: int | None = None) -> Request:
        """Return the request of one trial."""
        return Request(
            subject=self.subject,
            prompt=self.prompt,
            num_images=self.num_images,
            seed=self.seed if seed is None else seed,
        )

    def ordinary(self, backbone: ExploringBackbone, subject: str | None = None) -> Concept:
        """Return the subject itself, or another, drawn with the prior's settings of the search."""
        settings = self.config.sampling(backbone)
        metadata = {
            "prior_num_inference_steps": str(settings["num_inference_steps"]),
            "prior_guidance_scale": str(settings["prior_guidance_scale"]),
        }
        request = self.request()
        request = request if subject is None else replace(request, subject=subject)
        return replace(plain_concept(backbone, request), metadata=metadata)

    def references(self, backbone: ExploringBackbone) -> list[tuple[Concept, int]]:
        """Return which ordinary pictures to compare with, and how many of each.

        A broad subject brings its members, too: a watermelon is no unusual fruit.
        """
        members = list(backbone.card["subjects"].get(self.subject, ()))
        each = -(-NUM_REFERENCES // len(members)) if members else 0
        kinds = [(self.ordinary(backbone, member), min(each, MAX_PER_MEMBER)) for member in members]
        return [(self.ordinary(backbone), NUM_REFERENCES), *kinds]

    def as_json(self, backbone: ExploringBackbone) -> dict[str, Any]:
        """Return everything that the result depends on."""
        asked = asdict(self)
        # as runs of before were asked
        plain = {"start": None, "taste": None, "directions": 1, "candidates": 1}
        for name, value in plain.items():
            if asked[name] == value:
                del asked[name]
        return {
            "verb": "explore",
            **{**asked, "avoid": list(asked["avoid"]), "unlike": list(self.unlike)},
            "prior": self.config.sampling(backbone),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One finished search, with what it drew."""

    number: int
    direction: int
    seed: int
    concept: Concept
    fresh: Tensor
    """Embeddings of noises that the search has not seen, ``[64, D]``."""
    readings: dict[str, Any]
    """Of these, see ``Baseline.describe``."""
    chosen: Chosen
    """Its pictures."""
    distances: list[float]
    axes: list[list[float]]
    """Of the pictures, along the first two axes of the baseline."""

    @property
    def stopped(self) -> str:
        """Why the search ended: held, farthest, judge or steps."""
        return self.concept.metadata["stopped"]

    @property
    def validity(self) -> float | None:
        """Share of the drawn pictures that the judge passed, of those it answered for."""
        answered = [verdict for verdict in self.chosen.drawn_verdicts if verdict.answered]
        return sum(v.passed for v in answered) / len(answered) if answered else None

    @property
    def seen(self) -> float | None:
        """Median seen novelty of the pictures that are shown."""
        return statistics.median(self.chosen.seen) if self.chosen.seen else None

    def rank(self) -> tuple[float, float, float, int]:
        """Return what the best of several trials is the largest by.

        A picture that no judge answered for counts as not passed, so that a trial with one "yes"
        and nineteen unknown does not beat one with nineteen of twenty.
        """
        verdicts, seen = self.chosen.drawn_verdicts, self.seen
        return (
            sum(verdict.passed for verdict in verdicts) / len(verdicts) if verdicts else 0.0,
            0.0 if seen is None else seen,
            self.readings["distance_median"],
            -self.number,
        )

    def as_json(self) -> dict[str, Any]:
        """Return what was reached, as JSON values."""
        return {
            "trial": self.number,
            "direction": self.direction,
            "seed": self.seed,
            "validity": self.validity,
            "seen": self.seen,
            "seen_drawn": statistics.median(self.chosen.drawn_seen)
            if self.chosen.drawn_seen
            else None,
            "num_drawn": len(self.chosen.rows),
            "num_passed": sum(verdict.passed for verdict in self.chosen.drawn_verdicts),
            "distance_median": self.readings["distance_median"],
            "avoid_distance": self.readings["avoid_distance"],
            "stopped": self.stopped,
            "step": int(self.concept.metadata["step"]),
        }


# --- arguments as they come


def runs_of(avoid: object) -> list[str | Region]:
    """Return the runs and regions to avoid as a list.

    Raises:
        ConfigError: If one is neither.
    """
    runs = [avoid] if isinstance(avoid, str | Path | Region) else avoid
    if not isinstance(runs, Sequence) or not all(isinstance(r, str | Path | Region) for r in runs):
        raise ConfigError(f"avoid: expected run folders or regions of their maps, got {avoid!r}")
    return [run if isinstance(run, Region) else str(run) for run in runs]


def pictures_of(unlike: object) -> list[str | tuple[str, ...]]:
    """Return the pictures to differ from: folders as text, lists of files as tuples.

    Raises:
        ConfigError: If one is neither.
    """
    groups = [unlike] if isinstance(unlike, str | Path) else unlike
    try:
        return [
            str(group) if isinstance(group, str | Path) else tuple(str(Path(f)) for f in group)
            for group in groups  # type: ignore[attr-defined]
        ]
    except TypeError as error:
        raise ConfigError(
            f"unlike: expected folders of pictures, or lists of files, got {unlike!r}"
        ) from error


def drawing_settings(
    method: str,
    config: LowProbabilityConfig | Mapping[str, Any] | None,
    searching: Mapping[str, Any],
) -> Mapping[str, Any]:
    """Return the settings of a method that does not search, and refuse those of a search.

    Raises:
        ConfigError: If there is one.
    """
    if unsuitable := [name for name, value in searching.items() if value]:
        raise ConfigError(refusal(unsuitable, method))
    if isinstance(config, LowProbabilityConfig):
        raise ConfigError(f"config: expected settings of {method} by name, got those of {NAME}")
    return config or {}


def refusal(names: Sequence[str], method: str) -> str:
    """Return what an error says of settings of the search that another method was given."""
    applies, them = ("applies", "it") if len(names) == 1 else ("apply", "them")
    return (
        f"{', '.join(names)}: {applies} only to method {NAME!r}; {method!r} does not accept {them}"
    )
