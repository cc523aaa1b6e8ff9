"""The report of a study: one HTML file with tables and interval plots, and the numbers beside."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from offbeat.files.disk import json_bytes, write_atomic
from offbeat.runs.report import page, section
from offbeat.study.analyse import Analysis, Level
from offbeat.study.design import Study
from offbeat.study.metrics import StandIn

TITLES = {
    "person": "People",
    "simulation": "Simulated raters (no people)",
    "model": "Models as raters (no people)",
}
LABELS = {
    "pairs": "share that prefers the first, of those who prefer one",
    "ranking": "share that would rank the first higher",
    "yes-no": "difference in the share of yes",
    "scale": "difference of the means",
}
WIDTH, ROW = 560, 26
"""Pixels of a plot, and of a line of it."""


def write_report(
    study: Study, analyses: Sequence[Analysis], stand_ins: Sequence[StandIn] = ()
) -> None:
    """Write ``report.html`` and ``analysis.json`` into the study's folder.

    Raises:
        StoreError: If they cannot be written.
    """
    content = {
        "schema_version": 1,
        "title": study.design.title,
        "kind": study.design.kind,
        "analyses": [each.as_json() for each in analyses],
        "stand_ins": [{name: getattr(each, name) for name in each.__slots__} for each in stand_ins],
    }
    write_atomic(study.folder / "analysis.json", json_bytes(content))
    text = report_html(study, analyses, stand_ins)
    write_atomic(study.folder / "report.html", text.encode())


def report_html(
    study: Study, analyses: Sequence[Analysis], stand_ins: Sequence[StandIn] = ()
) -> str:
    """Return the report as one HTML file."""
    design = study.design
    lead = _text(next(iter(design.question.values())))
    sections = [section(TITLES[each.kind], _of_kind(study, each)) for each in analyses]
    if stand_ins:
        rows = [
            [each.name, f"{each.auc:.3f}", f"{each.low:.3f} to {each.high:.3f}",
             f"{each.tau:.3f}", each.num_answers]
            for each in stand_ins
        ]  # fmt: skip
        note = (
            "<p>How often a metric scores the picture that people chose higher (AUC; 0.5 is "
            "chance), and Kendall's tau with people's order. A metric whose interval reaches 0.5 "
            "cannot stand in for people.</p>"
        )
        head = ["metric", "AUC", "95 % interval", "tau", "answers"]
        sections.append(section("May a metric stand in for people?", note + _table(head, rows)))
    sections.append(section("The design", _design(study)))
    return page(design.title, lead, sections)


def _of_kind(study: Study, analysis: Analysis) -> str:
    design = study.design
    middle = 0.5 if design.kind in ("pairs", "ranking") else 0.0
    parts = [
        f"<p>{analysis.num_answers} answers of {analysis.num_analysed} raters "
        f"({analysis.num_raters} took part). Intervals are 95 %, over raters; they speak of these "
        f"items only.</p>",
        *(f"<p><strong>{_text(warning)}</strong></p>" for warning in analysis.warnings),
        f"<p>Shown: {LABELS[design.kind]}.</p>",
        _intervals(
            [
                (f"{each.first} over {each.second}", each.estimate, each.low, each.high)
                for each in analysis.comparisons
            ],
            middle,
        ),
    ]
    head = ["first", "second", "estimate", "95 % interval", "p (Holm)", "verdict", "answers"]
    rows = [
        [
            each.first,
            each.second,
            f"{each.estimate:.3f}",
            f"{each.low:.3f} to {each.high:.3f}",
            f"{each.p_holm:.4f}",
            each.verdict,
            ", ".join(f"{name} {count}" for name, count in each.counts.items())
            or (each.odds_ratio and "odds {:.2f} ({:.2f} to {:.2f})".format(*each.odds_ratio))
            or "",
        ]
        for each in analysis.comparisons
    ]
    parts.append(_table(head, rows))
    parts.append(_levels(design.items, analysis.levels))
    facts = []
    if analysis.left_place is not None:
        effect = analysis.left_place
        facts.append(
            f"Place: the left picture gains {effect.value:+.2f} logits "
            f"({effect.low:+.2f} to {effect.high:+.2f}); the estimates allow for it."
        )
    if not math.isnan(analysis.self_agreement):
        facts.append(f"Raters answered {analysis.self_agreement:.0%} of repeated trials alike.")
    if not math.isnan(analysis.alpha):
        facts.append(f"Krippendorff's alpha between raters: {analysis.alpha:.3f}.")
    facts += [f"Rater {number} left out: {why}." for number, why in analysis.excluded.items()]
    parts.append("<ul>" + "".join(f"<li>{_text(fact)}</li>" for fact in facts) + "</ul>")
    return "\n".join(parts)


def _levels(items: Sequence[str], levels: Sequence[Level]) -> str:
    rows = [
        [each.item or "all", each.condition, f"{each.value:.3f}",
         f"{each.low:.3f} to {each.high:.3f}", each.num_answers]
        for each in levels
        if each.item == "" or len(items) > 1
    ]  # fmt: skip
    table = _table(["item", "condition", "level", "95 % interval", "answers"], rows)
    return f"<details><summary>Each condition and item</summary>{table}</details>"


def _design(study: Study) -> str:
    design = study.design
    facts: Mapping[str, Any] = {
        "digest of the design, fixed before the first answer": study.digest,
        "kind": design.kind,
        "conditions": ", ".join(design.conditions),
        "items": ", ".join(design.items),
        "trials for each rater": design.trials,
        "repeats, checks, practice": f"{design.repeats}, {design.checks}, {design.practice}",
        "order": design.order,
        "left out": str(design.exclusions),
        "level of all tests together": design.level,
        "primary comparison": " over ".join(design.primary) if design.primary else "all, by Holm",
    }
    return _table(["what", "value"], [[name, value] for name, value in facts.items()])


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = "".join(f"<th scope=col>{_text(each)}</th>" for each in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"


def _intervals(rows: Sequence[tuple[str, float, float, float]], middle: float) -> str:
    """Return a plot of estimates with intervals, a line each; ``middle`` is no difference."""
    finite = [x for _, value, low, high in rows for x in (value, low, high) if math.isfinite(x)]
    reach = max([abs(x - middle) for x in finite] or [0.5]) * 1.1 or 0.5
    left = 220

    def at(value: float) -> float:
        share = (min(max(value, middle - reach), middle + reach) - middle + reach) / (2 * reach)
        return round(left + share * (WIDTH - left - 10), 1)

    height = ROW * len(rows) + 30
    parts = [
        f'<line x1="{at(middle)}" y1="4" x2="{at(middle)}" y2="{height - 24}" stroke="currentColor"'
        ' stroke-dasharray="3 3" opacity=".6"/>'
    ]
    for number, (label, value, low, high) in enumerate(rows):
        y = ROW * number + 18
        parts.append(
            f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{_text(label)}</text>'
            f'<line x1="{at(low)}" y1="{y}" x2="{at(high)}" y2="{y}" stroke="currentColor" '
            f'stroke-width="2"/><circle cx="{at(value)}" cy="{y}" r="5" fill="currentColor"/>'
        )
    for value in (middle - reach, middle, middle + reach):
        parts.append(
            f'<text x="{at(value)}" y="{height - 6}" text-anchor="middle">{value:.2f}</text>'
        )
    label = "; ".join(f"{name}: {value:.3f}" for name, value, _, _ in rows)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="100%" style="max-width:{WIDTH}px;'
        f'font-size:12px" fill="currentColor" role="img" aria-label="{_text(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)
