"""Who sees what, in which order, on which side: balanced over raters, drawn from the seed."""

from __future__ import annotations

import itertools
import random
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from offbeat.study.design import Design, Study, _Part

Purpose = Literal["main", "practice", "repeat", "check"]


class Trial(_Part):
    """One decision on the page."""

    key: str
    """Of what is compared, whichever side; the same in a repeat."""
    purpose: Purpose
    item: str
    pictures: tuple[str, ...]
    """Identifiers, from left to right."""
    expected: Any = None
    """The answer that a check asks for."""


def schedule(study: Study, number: int, shown: Mapping[str, int]) -> list[Trial]:
    """Return the trials of one rater, in order.

    What was shown least comes first, so that every comparison is answered about as often; its
    sides alternate from rater to rater.

    Args:
        study: The study.
        number: Which rater it is, from 0.
        shown: How often each key was given to raters so far.
    """
    design = study.design
    draws = random.Random(f"{design.seed}/{number}")
    pool = all_trials(study)
    draws.shuffle(pool)
    pool.sort(key=lambda trial: shown.get(trial.key, 0))  # stable: ties stay shuffled
    main = [
        _turned(trial, shown.get(trial.key, 0), draws, design) for trial in pool[: design.trials]
    ]
    main = _ordered(main, design, number, draws)
    spare = [_turned(trial, 0, draws, design) for trial in pool[design.trials :]] or main
    practice = [
        trial.model_copy(update={"purpose": "practice"})
        for trial in draws.sample(spare, min(design.practice, len(spare)))
    ]
    repeats = [
        trial.model_copy(update={"purpose": "repeat", "pictures": trial.pictures[::-1]})
        for trial in draws.sample(main, min(design.repeats, len(main)))
    ]
    checks = [_check(draws.choice(main), design, draws) for _ in range(design.checks)]
    trials = list(main)
    half = len(main) // 2 + 1
    for repeat in repeats:  # in the second half, after what it repeats
        first = trials.index(next(trial for trial in main if trial.key == repeat.key))
        trials.insert(draws.randint(min(max(first + 1, half), len(trials)), len(trials)), repeat)
    for place, check in enumerate(checks):  # spread evenly
        at = round((place + 0.5 + draws.uniform(-0.3, 0.3)) * len(trials) / len(checks))
        trials.insert(max(1, at), check)
    return practice + trials


def all_trials(study: Study) -> list[Trial]:
    """Return everything that can be compared or rated, in a fixed order."""
    design = study.design
    of: dict[tuple[str, int], dict[str, str]] = {}
    for picture in study.pictures:
        of.setdefault((picture.item, picture.index), {})[picture.condition] = picture.id
    trials = []
    for (item, index), by_condition in sorted(of.items()):
        names = list(design.conditions)
        groups: Sequence[tuple[str, ...]]
        if design.kind == "pairs":
            groups = list(itertools.combinations(names, 2))
        elif design.kind == "ranking":
            groups = [tuple(names)]
        else:
            groups = [(name,) for name in names]
        for group in groups:
            key = f"{item}/{index}/{'+'.join(group)}"
            ids = tuple(by_condition[name] for name in group)
            trials.append(Trial(key=key, purpose="main", item=item, pictures=ids))
    return trials


def _turned(trial: Trial, times: int, draws: random.Random, design: Design) -> Trial:
    """Return a trial with its pictures in the order of this turn."""
    ids = list(trial.pictures)
    if design.kind == "pairs":
        ids = ids[::-1] if (times + zlib.crc32(trial.key.encode())) % 2 else ids
    else:
        draws.shuffle(ids)
    return trial.model_copy(update={"pictures": tuple(ids)})


def _ordered(trials: list[Trial], design: Design, number: int, draws: random.Random) -> list[Trial]:
    if design.order != "latin":
        draws.shuffle(trials)
        return trials
    trials.sort(key=lambda trial: trial.key)
    size = len(trials)
    # Williams: 0, 1, n-1, 2, n-2, ...: over n raters each stands once at each place, and each
    # follows each other about equally often
    row = [0] + [place // 2 + 1 if place % 2 == 0 else size - place // 2 - 1
                 for place in range(size - 1)]  # fmt: skip
    return [trials[(place + number) % size] for place in row]


def _check(trial: Trial, design: Design, draws: random.Random) -> Trial:
    """Return an attention check: the page's text says which answer to give."""
    expected: Any
    if design.kind == "pairs":
        expected = draws.choice(["left", "right"])
    elif design.kind == "yes-no":
        expected = draws.choice(["yes", "no"])
    elif design.kind == "scale":
        expected = draws.randint(design.scale.low, design.scale.high)
    else:
        expected = list(range(len(trial.pictures)))
    return trial.model_copy(
        update={"key": f"check/{trial.key}", "purpose": "check", "expected": expected}
    )


def counts(schedules: Sequence[Sequence[Trial]]) -> Counter[str]:
    """Return how often each key was given to raters, repeats and practice apart."""
    return Counter(trial.key for trials in schedules for trial in trials if trial.purpose == "main")


def is_answer(design: Design, trial: Trial, value: Any) -> bool:
    """Return whether a value answers a trial."""
    if design.kind == "pairs":
        return value in ("left", "right") or (value == "equal" and design.ties)
    if design.kind == "yes-no":
        return value in ("yes", "no")
    if design.kind == "scale":
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and design.scale.low <= value <= design.scale.high
    places = list(range(len(trial.pictures)))
    return (
        isinstance(value, list)
        and all(type(at) is int for at in value)
        and (sorted(value) == places)
    )
