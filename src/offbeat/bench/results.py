"""From cells to tables: means with intervals, claims with paired tests, a sheet."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from offbeat.bench.cells import Cell, TableRun
from offbeat.bench.spec import Claim, Table
from offbeat.bench.statistics import (
    effect_size,
    equivalence_p,
    interval,
    paired_p,
    smallest_effect,
    verdict,
)
from offbeat.files.disk import json_bytes, write_atomic
from offbeat.files.labels import versions
from offbeat.files.pictures import read_picture
from offbeat.files.png import to_pil
from offbeat.metrics.common import holm
from offbeat.runs.sheet import contact_sheet, png_of

Values = Mapping[tuple[str, str], Mapping[str, float]]
"""Way and reading to unit to its value: an item's mean over seeds, or one run's."""

RESULTS = "results.json"
LOG_SECONDS = "log10 seconds"
"""A reading of every cell: of its seconds a picture, so that ratios become differences."""
SHEET = "sheet.png"


def finish(job: TableRun) -> None:
    """Write ``results.json``, from which the report is made, and the sheet of a whole table."""
    rows = job.results()
    found = summary(job.table, rows)
    found["fingerprint"] = job.lab.backbone.fingerprint
    found["backbone"] = job.lab.backbone.name
    used = (job.lab.backbone_for(way) for way in job.table.ways.values())
    found["weights"] = {backbone.name: backbone.fingerprint for backbone in used}
    found["versions"] = versions()
    if shown := sheet(job, rows) if job.table.sheet else None:
        write_atomic(job.out / SHEET, shown)
    write_atomic(job.out / RESULTS, json_bytes(found))


def summary(table: Table, rows: Sequence[tuple[Cell, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return what a report shows of a table; the same cells give the same bytes."""
    values = by_unit(rows, table.unit)
    ways = []
    for way in table.ways.values():
        own = [found for cell, found in rows if cell.way.name == way.name]
        pictures = sum(found["num_images"] for found in own)
        ways.append(
            {
                "name": way.name,
                "label": way.label,
                "cells": len(own),
                "readings": {
                    reading: _described(list(values[way.name, reading].values()))
                    for reading in table.readings
                    if (way.name, reading) in values
                },
                "evaluations": sum(found["evaluations"] for found in own) / max(pictures, 1),
                "seconds": statistics.median(f["seconds"] / max(f["num_images"], 1) for f in own)
                if own
                else 0.0,
            }
        )
    return {
        "name": table.name,
        "unit": table.unit,
        "title": table.title,
        "about": table.about,
        "source": table.source,
        "headings": dict(table.readings),
        "ways": ways,
        "left_out": list(table.left_out),
        "claims": [
            judged(
                claim,
                table,
                by_unit([row for row in rows if row[0].item.name in claim.items], table.unit)
                if claim.items
                else values,
            )
            for claim in table.claims
        ],
    }


def by_unit(rows: Sequence[tuple[Cell, Mapping[str, Any]]], unit: str = "item") -> Values:
    """Return every reading by way and unit, for paired tests.

    An item's is its mean over seeds, a training's its mean over items.
    """
    names: dict[str, Callable[[Cell], str]] = {
        "item": lambda cell: cell.item.name,
        "run": lambda cell: f"{cell.item.name} {cell.seed}",
        "training": lambda cell: str(cell.seed),
    }
    lists: dict[tuple[str, str], dict[str, list[float]]] = {}
    for cell, found in rows:
        took = found["seconds"] / max(found["num_images"], 1)
        for reading, value in {**found["readings"], LOG_SECONDS: math.log10(took + 1e-6)}.items():
            place = lists.setdefault((cell.way.name, reading), {})
            place.setdefault(names[unit](cell), []).append(value)
    return {
        place: {item: statistics.fmean(numbers) for item, numbers in items.items()}
        for place, items in lists.items()
    }


def _described(values: Sequence[float]) -> dict[str, Any]:
    low, high = interval(values)
    return {"mean": statistics.fmean(values), "low": low, "high": high, "items": len(values)}


def judged(claim: Claim, table: Table, values: Values) -> dict[str, Any]:
    """Return a claim with its difference, interval, effect, test and wins.

    The units that both rows have are paired; a difference is positive in the claim's favour.
    """
    first, unit = values.get((claim.way, claim.reading), {}), table.unit
    other = values.get((claim.over or claim.way, claim.over_reading or claim.reading), {})
    if claim.than is not None:
        other = dict.fromkeys(first, claim.than)
    sign = 1 if claim.direction == "higher" else -1
    gaps = [sign * (first[item] - other[item]) for item in first if item in other]
    outcome: dict[str, Any] = {
        "says": claim.says,
        "of": claim.of,
        "way": table.ways[claim.way].label,
        "over": table.ways[claim.over or claim.way].label,
        "reading": table.readings.get(claim.reading, claim.reading),
        "within": claim.within,
        "least": claim.least,
        "equal": claim.equal,
        "than": claim.than,
        "direction": claim.direction,
        "unit": unit,
        "pairs": len(gaps),
    }
    if gaps:
        low, high = interval(gaps)
        moved = [gap + (claim.within or 0.0) - (claim.least or 0.0) for gap in gaps]
        outcome |= {
            "difference": statistics.fmean(gaps),
            "low": low,
            "high": high,
            "effect": _finite(effect_size(gaps)),
            "smallest_effect": _finite(smallest_effect(len(gaps), unit)),
            "mean_tested": statistics.fmean(moved),
            "p": paired_p(moved, unit)
            if claim.equal is None
            else equivalence_p(gaps, claim.equal, unit),
            "wins": sum(gap > 0 for gap in moved),
        }
    return outcome


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def decide(tables: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the claims of each table with verdicts, corrected by Holm over all of them."""
    tested = [claim for table in tables for claim in table["claims"] if claim["pairs"]]
    corrected = dict(zip(map(id, tested), holm([c["p"] for c in tested]), strict=True))
    return [
        [
            {
                **claim,
                "p_corrected": corrected.get(id(claim)),
                "verdict": verdict(
                    claim.get("mean_tested", 0.0),
                    corrected.get(id(claim), 1.0),
                    claim["pairs"],
                    of_paper=claim["of"] == "paper",
                    equal=claim["equal"] is not None,
                    unit=claim["unit"],
                ),
            }
            for claim in table["claims"]
        ]
        for table in tables
    ]


def sheet(job: TableRun, rows: Sequence[tuple[Cell, Mapping[str, Any]]]) -> bytes | None:
    """Return the first picture of the first items, first seed, a row for each way that has all."""
    items = list(dict.fromkeys(cell.item.name for cell, _ in rows))[: job.table.sheet]
    side = int(job.lab.backbone.card["height"])
    shown = []
    for way in job.table.ways.values():
        files = {
            cell.item.name: cell.file(job.out).with_suffix(".png")
            for cell, _ in rows
            if cell.way.name == way.name and cell.seed == 0
        }
        if all(item in files and files[item].exists() for item in items):
            opened = torch.stack([read_picture(files[item], size=side) for item in items])
            shown.append((way.label, to_pil(opened)))
    if not shown:
        return None
    picture = contact_sheet(shown, captions=items, title=job.table.title)
    return png_of(picture.reduce(2).quantize(128))  # a page shows many of them


# --- the report -----------------------------------------------------------------------------


def page(folders: Sequence[Path], sheets: str) -> str:
    """Return the results of finished tables as one Markdown page.

    Args:
        folders: Where each table's ``results.json`` is, in the order of the page.
        sheets: Path of the folder of sheets, as the page links to it.
    """
    tables = [json.loads((folder / RESULTS).read_text()) for folder in folders]
    for table, claims in zip(tables, decide(tables), strict=True):
        table["claims"] = claims
    parts = [HEAD, _verdicts(tables)]
    for folder, table in zip(folders, tables, strict=True):
        sheet = f"{sheets}/{folder.name}.png" if (folder / SHEET).exists() else ""
        parts.append(_section(table, sheet))
    for numbers in {json.dumps(table["versions"]): table["versions"] for table in tables}.values():
        parts.append(f"Made with {', '.join(' '.join(pair) for pair in numbers.items())}.")
    return "\n\n".join(parts) + "\n"


HEAD = """# Results: the papers' claims, re-run

This page is written by `offbeat bench papers`; nobody edits it. Each table is one YAML file in
`src/offbeat/bench/tables/`, and says which weights it is of. Entries are means with 95 % bootstrap
intervals. A claim pairs two rows item by item (mean over seeds), run by run (each seed of each
item) or training by training (each seed, with a training of its own, mean over items). It shows the
difference in the claim's favour with its interval, the effect size (mean over standard deviation of
the differences), the smallest effect that so many pairs find with 80 % power, the p value after
Holm's correction for all claims of this page (two-sided, by flipped signs; of trainings, which are
few, by the t test), and how many pairs go the claim's way. Verdicts below 5 %: *as in the paper* or
*not as in the paper* for a paper's claim, *holds* or *does not hold* for one of ours or a check;
*undecided* otherwise. *Kept within x* tests whether it is at most x worse, *at least x* whether it
is better by more than x, *equal within x* whether both differ by less than x (two one-sided tests).
Evaluations count every pass of a sample through a denoiser or a prior, learning included, per
picture; seconds are the median per picture, on a machine that may be busy."""


def _verdicts(tables: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| claim | whose | table | verdict |", "| --- | --- | --- | --- |"]
    for table in tables:
        link = f"[{table['title']}](#{_anchor(table['title'])})"
        lines += [
            f"| {c['says']} | {c['of']} | {link} | **{c['verdict']}** |" for c in table["claims"]
        ]
    claims = [claim for table in tables for claim in table["claims"]]
    decided = sum(claim["verdict"] != "undecided" for claim in claims)
    return "\n".join([*lines, "", f"Decided: {decided} of {len(claims)}."])


def _anchor(title: str) -> str:
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def _section(one: Mapping[str, Any], sheet: str) -> str:
    headings = one["headings"]
    weights = ", ".join(f"{name} (`{digits}`)" for name, digits in one["weights"].items())
    about = f"{one['about']} Source: {one['source']}. Weights: {weights}.".strip()
    lines = [f"## {one['title']}", "", about, ""]
    lines.append(f"| way | {' | '.join(headings.values())} | evaluations | seconds |")
    lines.append("| --- |" + " --- |" * (len(headings) + 2))
    for way in one["ways"]:
        cells = [_entry(way["readings"].get(reading)) for reading in headings]
        spent = f"{way['evaluations']:,.0f} | {way['seconds']:.2g}"
        lines.append(f"| {way['label']} | {' | '.join(cells)} | {spent} |")
    if one["claims"]:
        unit = one["unit"]
        lines += ["", f"| claim, {unit} by {unit} | difference | effect (smallest found) | p | "
                  "its way | verdict |"]  # fmt: skip
        lines.append("| --- | --- | --- | --- | --- | --- |")
        lines += [_claim(claim) for claim in one["claims"]]
    if one["left_out"]:
        lines += ["", "Not tested here:", "", *(f"- {words}" for words in one["left_out"])]
    if sheet:
        lines += ["", f"![{one['title']}]({sheet})"]
    return "\n".join(lines)


def _entry(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"{_number(found['mean'])} ({_number(found['low'])} to {_number(found['high'])})"


def _claim(claim: Mapping[str, Any]) -> str:
    says = claim["says"]
    side = "above" if claim["direction"] == "higher" else "below"
    words = {"than": side, "within": "kept within", "least": "at least", "equal": "equal within"}
    for name in words:
        if claim[name] is not None:
            says += f" ({words[name]} {_number(claim[name])})"
    if not claim["pairs"]:
        return f"| {says} | | | | | {claim['verdict']} |"
    gap = f"{_number(claim['difference'])} ({_number(claim['low'])} to {_number(claim['high'])})"
    effect, smallest = (
        "all alike" if claim[name] is None else _number(claim[name])
        for name in ("effect", "smallest_effect")
    )
    if claim["smallest_effect"] is None:
        smallest = "too few pairs"
    wins = f"{claim['wins']} of {claim['pairs']}"
    p = f"{claim['p_corrected']:.3f}" if claim["p_corrected"] >= 0.001 else "< 0.001"
    return f"| {says} | {gap} | {effect} ({smallest}) | {p} | {wins} | **{claim['verdict']}** |"


def _number(value: float) -> str:
    size = abs(value)
    if 0 < size < 0.01:
        return f"{value:.1g}"
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
