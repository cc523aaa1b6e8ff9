"""Analyse a study by the plan of its design: exclusions, estimates with intervals, tests, Holm.

Every estimate allows for raters who answer in their own way (see ``choice``). The items are those
of the study: no interval speaks of other items. People, simulations and models are analysed
apart, and never together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from scipy import stats
from statsmodels.miscmodels.ordinal_model import OrderedModel
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint

from offbeat.errors import ConfigError
from offbeat.metrics.agreement import krippendorff_alpha
from offbeat.metrics.common import holm
from offbeat.study import choice
from offbeat.study.answers import (
    Row,
    answers_of,
    by_picture,
    reason_to_leave_out,
    repeats_alike,
)
from offbeat.study.choice import Estimate
from offbeat.study.design import Design, Study
from offbeat.study.storage import RaterState

Verdict = Literal["first higher", "second higher", "equal within the margin", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One condition against another."""

    first: str
    second: str
    estimate: float
    """Pairs, rankings: share that prefers the first, of those who prefer one. Yes or no, scales:
    the first's share or mean less the second's."""
    low: float
    high: float
    p: float
    p_holm: float
    verdict: Verdict
    counts: Mapping[str, int] = field(default_factory=dict)
    """Pairs: answers for the first, for the second, and "equal"."""
    odds_ratio: tuple[float, float, float] | None = None
    """Scales: of a higher rating, by the cumulative-link model, with its interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How one condition stands by itself."""

    condition: str
    item: str
    """Empty: over all items."""
    value: float
    """Pairs, rankings: strength in logits, the mean of all conditions is 0; yes or no: share of
    yes; scales: mean."""
    low: float
    high: float
    num_answers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What a study found for one kind of raters."""

    kind: str
    """Person, simulation or model."""
    design: str
    """Digest of the design, fixed before the first answer."""
    num_raters: int
    num_analysed: int
    excluded: Mapping[str, str]
    """Rater to the rule that left the rater out."""
    num_answers: int
    comparisons: tuple[Comparison, ...]
    levels: tuple[Level, ...]
    left_place: Estimate | None
    """Pairs: how much the left place helps, in logits."""
    self_agreement: float
    """Share of repeated trials that were answered alike; NaN without repeats."""
    alpha: float
    """Krippendorff's alpha between raters; NaN where it is not defined."""
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def analyse(study: Study, raters: Sequence[RaterState]) -> Analysis:
    """Analyse the answers of one kind of raters.

    Args:
        study: The study.
        raters: From ``Storage.raters``.

    Raises:
        ConfigError: If no answer is left after the exclusions.
    """
    design = study.design
    excluded = {
        str(rater.number): why for rater in raters if (why := reason_to_leave_out(design, rater))
    }
    kept = [rater for rater in raters if str(rater.number) not in excluded]
    answers = [answer for rater in kept for answer in answers_of(study, rater)]
    if not answers:
        raise ConfigError(
            f"answers: expected at least one, got none of {len(raters)} raters, {len(excluded)} "
            "of them left out by the design's rules"
        )
    warnings = []
    if len(kept) < 10:
        warnings.append(f"{len(kept)} raters: intervals over so few are rough")
    comparisons, levels, left = _KINDS[design.kind](design, answers)
    return Analysis(
        kind=raters[0].kind,
        design=study.digest,
        num_raters=len(raters),
        num_analysed=len(kept),
        excluded=excluded,
        num_answers=len(answers),
        comparisons=_with_holm(design, comparisons),
        levels=tuple(levels),
        left_place=left,
        self_agreement=_self_agreement(study, kept),
        alpha=_alpha(study, kept),
        warnings=tuple(warnings),
    )


def _self_agreement(study: Study, raters: Sequence[RaterState]) -> float:
    alike = [each for rater in raters for each in repeats_alike(study.design, rater)]
    return float(np.mean(alike)) if alike else math.nan


def _alpha(study: Study, raters: Sequence[RaterState]) -> float:
    """Return Krippendorff's alpha over what several raters saw."""
    design = study.design
    if design.kind == "ranking":
        return math.nan
    columns: dict[str, int] = {}
    cells: list[tuple[int, int, float]] = []
    order = {picture.id: place for place, picture in enumerate(study.pictures)}
    for line, rater in enumerate(raters):
        for row in answers_of(study, rater):
            column = columns.setdefault(row.key, len(columns))
            value = by_picture(design, row.pictures, row.value)
            if design.kind == "pairs":
                value = (
                    0
                    if value == "equal"
                    else (1 if order[value] == min(order[each] for each in row.pictures) else -1)
                )
            elif design.kind == "yes-no":
                value = value == "yes"
            cells.append((line, column, float(value)))
    table = np.full((len(raters), len(columns)), math.nan)
    for line, column, number in cells:
        table[line, column] = number
    return krippendorff_alpha(
        table.tolist(), "ordinal" if design.kind in ("scale", "pairs") else "nominal"
    )


# --- one function a kind of question


_Found = tuple[list[Comparison], list[Level], Estimate | None]


def _pairs(design: Design, answers: Sequence[Row]) -> _Found:
    names, codes = list(design.conditions), _codes(answers)
    outcome = {"left": 0, "right": 1, "equal": 2}
    outcomes = np.array([outcome[row.value] for row in answers])
    left = np.array([row.conditions[0] for row in answers])
    right = np.array([row.conditions[1] for row in answers])

    def fitted(mask: Any) -> choice.Fit:
        return choice.fit_choices(
            choice.of_pairs(left[mask], right[mask], outcomes[mask], codes[mask], len(names))
        )

    fit = fitted(slice(None))
    comparisons = []
    for first, second in itertools.combinations(range(len(names)), 2):
        won = _wins(left, right, outcomes, first, second)
        counts = {"first": won[0], "second": won[1], "equal": won[2]}
        comparisons.append(_preference(design, fit, names, first, second, counts))
    levels = _strengths(fit, names, "", len(answers))
    for item in design.items:
        mask = np.array([row.item == item for row in answers])
        if mask.any():
            levels += _strengths(fitted(mask), names, item, int(mask.sum()))
    side = [0.0] * len(fit.weights)
    side[len(names)] = 1.0
    return comparisons, levels, fit.contrast(side)


def _wins(left: Any, right: Any, outcomes: Any, first: int, second: int) -> list[int]:
    there = (left == first) & (right == second)
    turned = (left == second) & (right == first)
    return [
        int((there & (outcomes == 0)).sum() + (turned & (outcomes == 1)).sum()),
        int((there & (outcomes == 1)).sum() + (turned & (outcomes == 0)).sum()),
        int(((there | turned) & (outcomes == 2)).sum()),
    ]


def _ranking(design: Design, answers: Sequence[Row]) -> _Found:
    names = list(design.conditions)

    def fitted(rows: Sequence[Row]) -> choice.Fit:
        rankings = [[row.conditions[at] for at in row.value] for row in rows]
        return choice.fit_choices(choice.of_rankings(rankings, _codes(rows), len(names)))

    fit = fitted(answers)
    comparisons = [
        _preference(design, fit, names, first, second, {})
        for first, second in itertools.combinations(range(len(names)), 2)
    ]
    levels = _strengths(fit, names, "", len(answers))
    for item in design.items:
        if rows := [row for row in answers if row.item == item]:
            levels += _strengths(fitted(rows), names, item, len(rows))
    return comparisons, levels, None


def _preference(
    design: Design,
    fit: choice.Fit,
    names: Sequence[str],
    first: int,
    second: int,
    counts: Mapping[str, int],
) -> Comparison:
    row = choice.difference(first, second, len(fit.weights))
    logit, inner = fit.contrast(row), fit.contrast(row, level=1 - 2 * 0.05)
    margin = design.equal_within
    equal = (
        choice.preference(inner.low) > 0.5 - margin and choice.preference(inner.high) < 0.5 + margin
    )
    return Comparison(
        first=names[first],
        second=names[second],
        estimate=choice.preference(logit.value),
        low=choice.preference(logit.low),
        high=choice.preference(logit.high),
        p=logit.p,
        p_holm=logit.p,
        verdict="equal within the margin" if equal else "undecided",
        counts=counts,
    )


def _strengths(fit: choice.Fit, names: Sequence[str], item: str, num: int) -> list[Level]:
    levels = []
    for code, name in enumerate(names):
        row = np.zeros(len(fit.weights))
        row[: len(names)] = -1 / len(names)
        row[code] += 1
        contrast = fit.contrast(row.tolist())
        levels.append(
            Level(
                condition=name, item=item, value=contrast.value, low=contrast.low,
                high=contrast.high,
                num_answers=num,
            )
        )  # fmt: skip
    return levels


def _yes_no(design: Design, answers: Sequence[Row]) -> _Found:
    yes = np.array([float(row.value == "yes") for row in answers])
    comparisons, levels = _linear(design, answers, yes)
    bounded = []
    for level in levels:
        rows = [row for row in answers if _condition_of(design, row) == level.condition
                and level.item in ("", row.item)]  # fmt: skip
        count = sum(row.value == "yes" for row in rows)
        low, high = proportion_confint(count, len(rows), method="wilson")
        # the wider of Wilson's, which knows the ends, and that of the raters, who differ
        bounded.append(
            Level(
                condition=level.condition, item=level.item, value=level.value,
                low=max(0.0, min(low, level.low)), high=min(1.0, max(high, level.high)),
                num_answers=len(rows),
            )
        )  # fmt: skip
    return comparisons, bounded, None


def _condition_of(design: Design, row: Row) -> str:
    """Return the condition of an answer about one picture."""
    return list(design.conditions)[row.conditions[0]]


def _scale(design: Design, answers: Sequence[Row]) -> _Found:
    comparisons, levels = _linear(design, answers, np.array([float(row.value) for row in answers]))
    return [_with_odds(design, answers, each) for each in comparisons], levels, None


def _linear(
    design: Design, answers: Sequence[Row], values: Any
) -> tuple[list[Comparison], list[Level]]:
    """Fit means of conditions, items held equal, with intervals over raters."""
    names, items, codes = list(design.conditions), list(design.items), _codes(answers)
    conditions = np.array([row.conditions[0] for row in answers])
    of_item = np.array([items.index(row.item) for row in answers])
    shifts = (of_item[:, None] == np.arange(1, len(items))) - 1 / len(items)
    shifts = np.where(of_item[:, None] >= 0, shifts, 0.0)
    rows = np.column_stack([conditions[:, None] == np.arange(len(names)), shifts]).astype(float)
    fit = _clustered(values, rows, codes)
    comparisons = []
    for first, second in itertools.combinations(range(len(names)), 2):
        row = choice.difference(first, second, rows.shape[1])
        test = fit.t_test(row)
        low, high = test.conf_int()[0]
        inner = test.conf_int(alpha=0.1)[0]
        margin = design.equal_within * (
            design.scale.high - design.scale.low if design.kind == "scale" else 1
        )
        comparisons.append(
            Comparison(
                first=names[first],
                second=names[second],
                estimate=float(np.squeeze(test.effect)),
                low=float(low),
                high=float(high),
                p=float(np.squeeze(test.pvalue)),
                p_holm=float(np.squeeze(test.pvalue)),
                verdict=(
                    "equal within the margin"
                    if -margin < inner[0] and inner[1] < margin
                    else "undecided"
                ),
            )
        )
    levels = []
    for item in ("", *items):
        chosen = np.ones(len(answers), bool) if item == "" else of_item == items.index(item)
        for code, name in enumerate(names):
            part = chosen & (conditions == code)
            if part.any():
                mean = _clustered(values[part], np.ones((int(part.sum()), 1)), codes[part])
                low, high = mean.conf_int()[0]
                levels.append(
                    Level(
                        condition=name, item=item, value=float(mean.params[0]), low=float(low),
                        high=float(high), num_answers=int(part.sum()),
                    )
                )  # fmt: skip
    return comparisons, levels


def _clustered(values: Any, rows: Any, codes: Any) -> Any:
    """Fit least squares with a covariance over raters; of one rater alone there is none."""
    if len(set(codes.tolist())) < 2:
        raise ConfigError("raters: expected at least two after the exclusions, got one")
    with np.errstate(invalid="ignore", divide="ignore"):
        return OLS(values, rows).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)


def _with_odds(design: Design, answers: Sequence[Row], comparison: Comparison) -> Comparison:
    """Add the odds ratio of a cumulative-link model, which takes the scale as ranks only."""
    names = list(design.conditions)
    first, second = names.index(comparison.first), names.index(comparison.second)
    rows = [row for row in answers if row.conditions[0] in (first, second)]
    values = np.array([row.value for row in rows])
    if len(set(values.tolist())) < 2:
        return comparison
    effect = np.array([[float(row.conditions[0] == first)] for row in rows])
    model = OrderedModel(values, effect, distr="logit")
    fit = model.fit(method="bfgs", disp=False)
    bread = np.linalg.inv(-model.hessian(fit.params))
    covariance, num = choice.sandwich(bread, model.score_obs(fit.params), _codes(rows))
    reach = stats.t.ppf(0.975, max(num - 1, 1)) * math.sqrt(max(covariance[0, 0], 0.0))
    low, middle, high = (
        float(np.exp(np.clip(fit.params[0] + shift, -50, 50))) for shift in (-reach, 0.0, reach)
    )
    return Comparison(**{**_fields(comparison), "odds_ratio": (middle, low, high)})


_KINDS = {"pairs": _pairs, "ranking": _ranking, "yes-no": _yes_no, "scale": _scale}


def _codes(answers: Sequence[Row]) -> Any:
    return np.array([row.rater for row in answers])


def _fields(comparison: Comparison) -> dict[str, Any]:
    return {name: getattr(comparison, name) for name in comparison.__slots__}


def _with_holm(design: Design, comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Correct the p values of all comparisons together, or of the primary one alone, and decide.

    With a primary comparison, it alone is tested at the level; the others are described.
    """
    names = [(each.first, each.second) for each in comparisons]
    primary = design.primary
    tested = [primary is None or set(pair) == set(primary) for pair in names]
    corrected = iter(
        holm([each.p for each, is_tested in zip(comparisons, tested, strict=True) if is_tested])
    )
    decided = []
    for each, is_tested in zip(comparisons, tested, strict=True):
        p = float(next(corrected)) if is_tested else each.p
        verdict = each.verdict
        middle = 0.5 if design.kind in ("pairs", "ranking") else 0.0
        if is_tested and p < design.level:
            verdict = "first higher" if each.estimate > middle else "second higher"
        elif not is_tested:
            verdict = "undecided"
        decided.append(Comparison(**{**_fields(each), "p_holm": p, "verdict": verdict}))
    return tuple(decided)
