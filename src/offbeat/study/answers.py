"""Read answers as rows, leave out raters by the rules, and list which picture was preferred."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offbeat.study.design import Design, Study
from offbeat.study.storage import RaterState


@dataclass(frozen=True, slots=True)
class Row:
    """One answer with what was shown."""

    rater: int
    key: str
    item: str
    conditions: tuple[int, ...]
    pictures: tuple[str, ...]
    value: Any


def answers_of(
    study: Study, rater: RaterState, purposes: Sequence[str] = ("main",)
) -> Iterable[Row]:
    """Yield a rater's answers to trials of these purposes."""
    codes = {name: code for code, name in enumerate(study.design.conditions)}
    pictures = study.by_id
    for answer in rater.given:
        trial = rater.trials[answer.position]
        if trial.purpose in purposes:
            shown = tuple(codes[pictures[each].condition] for each in trial.pictures)
            yield Row(rater.number, trial.key, trial.item, shown, trial.pictures, answer.value)


def reason_to_leave_out(design: Design, rater: RaterState) -> str:
    """Return which rule leaves a rater out; empty if none does."""
    rules = design.exclusions
    share = rater.position / len(rater.trials)
    if share < rules.min_answered:
        return f"answered {share:.0%} of the trials"
    pairs = [(rater.trials[answer.position], answer) for answer in rater.given]
    failed = sum(
        trial.purpose == "check" and answer.value != trial.expected for trial, answer in pairs
    )
    if failed > rules.max_failed_checks:
        return f"failed {failed} attention checks"
    fast = np.mean([answer.seconds < design.min_seconds for _, answer in pairs])
    if fast > rules.max_fast_share:
        return f"{fast:.0%} of the answers came sooner than {design.min_seconds} s"
    agreed = repeats_alike(design, rater)
    if (
        rules.min_self_agreement is not None
        and agreed
        and (np.mean(agreed) < rules.min_self_agreement)
    ):
        return f"answered {np.mean(agreed):.0%} of the repeated trials alike"
    return ""


def repeats_alike(design: Design, rater: RaterState) -> list[bool]:
    """Return for each repeated trial whether it was answered as at first."""
    first = {
        rater.trials[answer.position].key: answer
        for answer in rater.given
        if rater.trials[answer.position].purpose == "main"
    }
    alike = []
    for answer in rater.given:
        trial = rater.trials[answer.position]
        if trial.purpose == "repeat" and trial.key in first:
            before = first[trial.key]
            alike.append(
                by_picture(design, rater.trials[before.position].pictures, before.value)
                == by_picture(design, trial.pictures, answer.value)
            )
    return alike


def by_picture(design: Design, pictures: Sequence[str], value: Any) -> Any:
    """Return an answer in terms of the pictures instead of their places."""
    if design.kind == "pairs" and value != "equal":
        return pictures[0 if value == "left" else 1]
    if design.kind == "ranking":
        return [pictures[at] for at in value]
    return value


def preferred_pictures(study: Study, raters: Sequence[RaterState]) -> list[tuple[str, str]]:
    """Return which picture was preferred to which, of raters whom no rule leaves out."""
    return [
        (better, worse)
        for rater in kept_raters(study.design, raters)
        for _, better, worse in preferences(study.design, list(answers_of(study, rater)))
    ]


def kept_raters(design: Design, raters: Sequence[RaterState]) -> list[RaterState]:
    """Return the raters whom no rule leaves out."""
    return [rater for rater in raters if not reason_to_leave_out(design, rater)]


def preferences(design: Design, rows: Sequence[Row]) -> Iterable[tuple[str, str, str]]:
    """Return what a rater preferred to what: a name of the comparison, and two pictures."""
    if design.kind in ("pairs", "ranking"):
        for row in rows:
            order = [] if row.value == "equal" else best_first(row)
            for better, worse in itertools.combinations(order, 2):
                yield row.key, better, worse
        return
    for first, second in itertools.combinations(rows, 2):
        values = [merits(design, row)[0][1] for row in (first, second)]
        if first.item == second.item and values[0] != values[1]:
            high, low = (first, second) if values[0] > values[1] else (second, first)
            key = "+".join(sorted((first.key, second.key)))
            yield key, high.pictures[0], low.pictures[0]


def best_first(row: Row) -> list[str]:
    """Return the pictures of a pair or a ranking in the rater's order."""
    places = (
        row.value if isinstance(row.value, list) else ([0, 1] if row.value == "left" else [1, 0])
    )
    return [row.pictures[at] for at in places]


def merits(design: Design, row: Row) -> list[tuple[str, float]]:
    """Return a number for each picture of an answer; higher was liked better."""
    if design.kind == "yes-no":
        return [(row.pictures[0], float(row.value == "yes"))]
    if design.kind == "scale":
        return [(row.pictures[0], float(row.value))]
    if row.value == "equal":
        return [(picture, 0.5) for picture in row.pictures]
    order = best_first(row)
    return [(picture, 1 - at / (len(order) - 1)) for at, picture in enumerate(order)]
