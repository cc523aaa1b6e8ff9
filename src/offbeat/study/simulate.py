"""Simulated raters, for tests and for planning; never called people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from offbeat.core.rng import stream
from offbeat.errors import ConfigError
from offbeat.study.analyse import analyse
from offbeat.study.design import Design, Picture, Study
from offbeat.study.schedule import Trial, counts, schedule
from offbeat.study.storage import Given, RaterState, Storage

MAX_SIMULATED = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """How simulated raters answer.

    Attributes:
        strengths: Condition to its strength, logits.
        spread: Standard deviation of a rater's own taste for a condition, logits.
        left: How much the left place helps, logits.
        ties: Weight of "equal" in Davidson's model; 0 never answers so.
        careless: Share of raters who answer anything, 0 to 1.
    """

    strengths: Mapping[str, float]
    spread: float = 0.0
    left: float = 0.0
    ties: float = 0.0
    careless: float = 0.0


class SimulatedRater:
    """One simulated rater, with a taste for conditions drawn once."""

    def __init__(self, study: Study, crowd: Crowd, draws: np.random.Generator) -> None:
        self._study, self._crowd, self._draws = study, crowd, draws
        self._pictures = study.by_id
        names = list(study.design.conditions)
        spread = crowd.spread * draws.standard_normal(len(names))
        self._taste = dict(zip(names, spread, strict=True))
        self._is_careless = bool(draws.random() < crowd.careless)

    def answer(self, trial: Trial) -> Any:
        """Return the answer to a trial."""
        if trial.purpose == "check" and not self._is_careless:
            return trial.expected
        shown = [self._pictures[each].condition for each in trial.pictures]
        merits = np.array([self._crowd.strengths[name] + self._taste[name] for name in shown])
        return _answer(
            self._study.design, self._crowd, merits * (not self._is_careless), self._draws
        )


def _answer(design: Design, crowd: Crowd, merits: Any, draws: np.random.Generator) -> Any:
    if design.kind == "pairs":
        left, right = merits + np.array([crowd.left, 0.0])
        logits = [left, right]
        if design.ties and crowd.ties > 0:
            logits.append(math.log(crowd.ties) + (left + right) / 2)
        return ("left", "right", "equal")[int(np.argmax(draws.gumbel(size=len(logits)) + logits))]
    if design.kind == "ranking":
        return np.argsort(-(merits + draws.gumbel(size=len(merits)))).tolist()
    if design.kind == "yes-no":
        return "yes" if merits[0] + draws.logistic() > 0 else "no"
    scale = design.scale
    cuts = np.linspace(-2.5, 2.5, scale.high - scale.low)
    return scale.low + int((merits[0] + draws.logistic() > cuts).sum())


def simulate(study: Study, crowd: Crowd, num_raters: int, *, seed: int = 0) -> list[RaterState]:
    """Return simulated raters with their answers; nothing is stored.

    Raises:
        ConfigError: If a condition has no strength, or there are too many raters.
    """
    missing = set(study.design.conditions) - set(crowd.strengths)
    if missing:
        raise ConfigError(f"strengths: expected one for each condition, none for {sorted(missing)}")
    if not 1 <= num_raters <= MAX_SIMULATED:
        raise ConfigError(f"raters: expected 1 to {MAX_SIMULATED}, got {num_raters}")
    draws = np.random.default_rng(stream(seed, "simulated raters").initial_seed())
    given: list[list[Trial]] = []
    raters = []
    shown: dict[str, int] = {}
    for number in range(num_raters):
        trials = schedule(study, number, shown)
        for key, times in counts([trials]).items():
            shown[key] = shown.get(key, 0) + times
        given.append(trials)
        rater = SimulatedRater(study, crowd, draws)
        answers = tuple(
            Given(position, rater.answer(trial), 5.0, 0.0) for position, trial in enumerate(trials)
        )
        raters.append(RaterState(number, number, "simulation", "", "en", tuple(trials), answers))
    return raters


def store_simulated(
    study: Study, storage: Storage, crowd: Crowd, num_raters: int, *, seed: int = 0
) -> None:
    """Store the answers of simulated raters, as kind ``simulation``."""
    draws = np.random.default_rng(stream(seed, "simulated raters").initial_seed())
    for _ in range(num_raters):
        token = storage.join(kind="simulation", name="simulated")
        rater, state = SimulatedRater(study, crowd, draws), storage.rater(token)
        while not state.is_finished:
            at = state.position
            value = rater.answer(state.trials[at])
            state = storage.answer(
                token, key=f"simulated/{at:06d}", position=at, value=value, seconds=5.0
            )


def planned(design: Design) -> Study:
    """Return a study of a design without its pictures' files, for planning only."""
    pictures = tuple(
        Picture(id=f"{condition}/{item}/{index}", condition=condition, item=item, index=index,
                source="", digest="")
        for condition in design.conditions
        for item in design.items
        for index in range(design.pictures)
    )  # fmt: skip
    return Study(design=design, pictures=pictures, folder=Path())


def power(
    study: Study,
    *,
    num_raters: int,
    preference: float = 0.6,
    spread: float = 0.5,
    ties: float = 0.3,
    num_simulations: int = 200,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return how often the study would find a preference, with its 95 % interval.

    Args:
        study: The study, or ``planned`` of a design.
        num_raters: Who finish it.
        preference: True share that prefers the first condition to the second, 0 to 1.
        spread: How far raters differ, logits.
        ties: Weight of "equal".
        num_simulations: Studies to simulate.
        seed: Of the simulation.

    Raises:
        ConfigError: If the preference is not between 0 and 1.
    """
    if not 0 < preference < 1:
        raise ConfigError(f"preference: expected between 0 and 1, got {preference}")
    names = list(study.design.conditions)
    first, second = study.design.primary or (names[0], names[-1])
    logit = math.log(preference / (1 - preference))
    strengths = dict.fromkeys(names, 0.0) | {first: logit / 2, second: -logit / 2}
    crowd = Crowd(strengths=strengths, spread=spread, ties=ties)
    hits = 0
    for index in range(num_simulations):
        raters = simulate(study, crowd, num_raters, seed=seed * 100_003 + index)
        for comparison in analyse(study, raters).comparisons:
            if {comparison.first, comparison.second} == {first, second}:
                wanted = "first higher" if comparison.first == first else "second higher"
                hits += comparison.verdict == (wanted if preference > 0.5 else _other(wanted))
    low, high = proportion_confint(hits, num_simulations, method="wilson")
    return hits / num_simulations, float(low), float(high)


def _other(verdict: str) -> str:
    return "second higher" if verdict == "first higher" else "first higher"


def raters_needed(
    study: Study, *, preference: float = 0.6, wanted: float = 0.8, **how: Any
) -> tuple[int, list[tuple[int, float]]]:
    """Return how many raters find a preference with the wanted power, and what was tried.

    Doubles the number until it suffices, then halves the gap.

    Raises:
        ConfigError: If 2,000 raters do not suffice.
    """
    tried: dict[int, float] = {}

    def enough(number: int) -> bool:
        tried[number] = power(study, num_raters=number, preference=preference, **how)[0]
        return tried[number] >= wanted

    high = 4
    while not enough(high):
        high *= 2
        if high > MAX_SIMULATED:
            raise ConfigError(
                f"power: {MAX_SIMULATED} raters do not find {preference:.0%} with {wanted:.0%}; "
                "ask each for more trials"
            )
    low = high // 2
    while high - low > max(1, high // 20):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high, sorted(tried.items())
