"""How far metrics agree with people: which may stand in for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from offbeat.errors import ConfigError
from offbeat.study.answers import answers_of, kept_raters, merits, preferences
from offbeat.study.design import Study
from offbeat.study.storage import RaterState
from offbeat.verbs.score import score

NUM_RESAMPLES = 1000
"""Of the interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """How far a metric or a judge agrees with people."""

    name: str
    auc: float
    """Pairs: how often it scores the chosen picture higher; 0.5 is chance."""
    low: float
    high: float
    tau: float
    """Kendall's tau with the pictures' order by people."""
    num_answers: int


def stand_in(
    study: Study, raters: Sequence[RaterState], name: str, scores: Mapping[str, float]
) -> StandIn:
    """Return how far a metric agrees with people.

    The interval is over raters and over what was compared: raters and comparisons are drawn anew,
    both at once, so that a metric which happens to fit a few pictures is not taken for good.

    Args:
        study: The study.
        raters: Who answered; those that the rules leave out are left out.
        name: Of the metric.
        scores: Picture to value, higher is better.

    Raises:
        ConfigError: If nobody preferred one picture to another.

    Source: Owen, The pigeonhole bootstrap, Annals of Applied Statistics (2007).
    """
    design = study.design
    people: dict[str, list[float]] = {}
    agreed: list[tuple[int, str, float]] = []  # rater, comparison, 1 or 0
    for rater in kept_raters(design, raters):
        rows = list(answers_of(study, rater))
        for key, better, worse in preferences(design, rows):
            gap = scores[better] - scores[worse]
            agreed.append((rater.number, key, 0.5 if gap == 0 else float(gap > 0)))
        for row in rows:
            for picture, merit in merits(design, row):
                people.setdefault(picture, []).append(merit)
    if not agreed:
        raise ConfigError("answers: expected that pictures were preferred to others, none was")
    _, of_rater = np.unique([each[0] for each in agreed], return_inverse=True)
    _, of_key = np.unique([each[1] for each in agreed], return_inverse=True)
    hits = np.array([each[2] for each in agreed])
    draws = np.random.default_rng(design.seed)
    shares = []
    for _ in range(NUM_RESAMPLES):
        weights = _resample(draws, of_rater)[of_rater] * _resample(draws, of_key)[of_key]
        if weights.sum():
            shares.append((weights * hits).sum() / weights.sum())
    low, high = np.quantile(shares, [0.025, 0.975])
    ids = sorted(people)
    tau = stats.kendalltau([np.mean(people[each]) for each in ids], [scores[each] for each in ids])
    return StandIn(
        name=name, auc=float(hits.mean()), low=float(low), high=float(high),
        tau=float(tau.statistic), num_answers=len(hits),
    )  # fmt: skip


def _resample(draws: np.random.Generator, codes: Any) -> Any:
    """Return how often each code is drawn when as many are drawn as there are."""
    num = int(codes.max()) + 1
    return np.bincount(draws.integers(num, size=num), minlength=num)


def stand_ins(study: Study, raters: Sequence[RaterState], names: Sequence[str]) -> list[StandIn]:
    """Score the study's pictures and return how far each metric agrees with the raters.

    The text of a picture is its item's name.

    Raises:
        ConfigError: If a metric gives no value for each picture, or nobody has answered.
    """
    if not any(rater.given for rater in raters):
        raise ConfigError("--metric: expected answers of people, and there are none yet")
    pictures = study.pictures
    table = score(
        [study.file(picture.id) for picture in pictures],
        text=[f"a picture of {picture.item}" for picture in pictures],
        metrics=list(names),
    )
    held = []
    for scores in table.scores:
        if not scores.per_image:
            raise ConfigError(f"{scores.name}: expected a value for each picture, it gives one")
        sign = -1.0 if scores.better == "lower" else 1.0
        values = {
            picture.id: sign * float(value)
            for picture, value in zip(pictures, scores.values, strict=True)
        }
        held.append(stand_in(study, raters, scores.name, values))
    return held
