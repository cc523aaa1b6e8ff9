"""From cells to tables: means with intervals, claims with paired tests, a sheet."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from offbeat.bench.cells import Cell, TableRun
from offbeat.bench.spec import Claim, Table
from offbeat.bench.statistics import interval, sign_flip_p, verdict
from offbeat.files.disk import json_bytes, write_atomic
from offbeat.files.labels import versions
from offbeat.files.pictures import read_picture
from offbeat.files.png import to_pil
from offbeat.runs.sheet import contact_sheet, png_of

Values = Mapping[tuple[str, str], Mapping[str, float]]
"""Way and reading to item to its mean over seeds."""

RESULTS = "results.json"
SHEET = "sheet.png"


def finish(job: TableRun) -> None:
    """Write ``results.json``, from which the report is made, and the sheet of a whole table."""
    rows = job.results()
    found = summary(job.table, rows)
    found["fingerprint"] = job.lab.backbone.fingerprint
    found["backbone"] = job.lab.backbone.name
    found["versions"] = versions()
    if shown := sheet(job, rows) if job.table.sheet else None:
        write_atomic(job.out / SHEET, shown)
    write_atomic(job.out / RESULTS, json_bytes(found))


def summary(table: Table, rows: Sequence[tuple[Cell, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return what a report shows of a table; the same cells give the same bytes."""
    values = by_item(rows)
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
        "title": table.title,
        "about": table.about,
        "source": table.source,
        "headings": dict(table.readings),
        "ways": ways,
        "claims": [judged(claim, table, values) for claim in table.claims],
    }


def by_item(rows: Sequence[tuple[Cell, Mapping[str, Any]]]) -> Values:
    """Return the mean of every reading over seeds, by way and item, for paired tests."""
    lists: dict[tuple[str, str], dict[str, list[float]]] = {}
    for cell, found in rows:
        for reading, value in found["readings"].items():
            place = lists.setdefault((cell.way.name, reading), {})
            place.setdefault(cell.item.name, []).append(value)
    return {
        place: {item: statistics.fmean(numbers) for item, numbers in items.items()}
        for place, items in lists.items()
    }


def _described(values: Sequence[float]) -> dict[str, Any]:
    low, high = interval(values)
    return {"mean": statistics.fmean(values), "low": low, "high": high, "items": len(values)}


def judged(claim: Claim, table: Table, values: Values) -> dict[str, Any]:
    """Return a claim with its difference, interval, test, wins and verdict.

    The items that both rows have are paired; a difference is positive in the paper's favour.
    """
    first = values.get((claim.way, claim.reading), {})
    other = values.get((claim.over or claim.way, claim.over_reading or claim.reading), {})
    sign = 1 if claim.direction == "higher" else -1
    gaps = [sign * (first[item] - other[item]) for item in first if item in other]
    found: dict[str, Any] = {
        "says": claim.says,
        "way": table.ways[claim.way].label,
        "over": table.ways[claim.over or claim.way].label,
        "reading": table.readings.get(claim.reading, claim.reading),
        "within": claim.within,
        "pairs": len(gaps),
        "verdict": verdict(gaps, within=claim.within),
    }
    if gaps:
        low, high = interval(gaps)
        moved = [gap + (claim.within or 0.0) for gap in gaps]
        found |= {
            "difference": statistics.fmean(gaps),
            "low": low,
            "high": high,
            "p": sign_flip_p(moved),
            "wins": sum(gap > 0 for gap in moved),
        }
    return found


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
    found = [(folder, json.loads((folder / RESULTS).read_text())) for folder in folders]
    parts = [HEAD, _verdicts([one for _, one in found])]
    for folder, one in found:
        sheet = f"{sheets}/{folder.name}.png" if (folder / SHEET).exists() else ""
        parts.append(_section(one, sheet))
    used = {f"{one['backbone']} (`{one['fingerprint']}`)": one["versions"] for _, one in found}
    for checkpoint, numbers in used.items():
        with_what = ", ".join(f"{name} {number}" for name, number in numbers.items())
        parts.append(f"Checkpoint: {checkpoint}; {with_what}.")
    return "\n\n".join(parts) + "\n"


HEAD = """# Results: the papers' claims, re-run

This page is written by `offbeat bench papers`; nobody edits it. Each table is one YAML file in
`src/offbeat/bench/tables/`. Entries are means over items with 95 % bootstrap intervals. A claim
pairs two rows item by item (mean over seeds): difference in the paper's favour with its interval,
two-sided test of flipped signs, and how many items go the paper's way. *As in the paper* and *not*:
p below 5 %; *undecided* otherwise. *Kept within x* tests whether it is at most x worse. Evaluations
count every pass of a sample through a denoiser or a prior, learning included, per picture; seconds
are the median per picture, on a machine that may be busy."""


def _verdicts(found: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| claim | table | verdict |", "| --- | --- | --- |"]
    for one in found:
        link = f"[{one['title']}](#{_anchor(one['title'])})"
        lines += [f"| {c['says']} | {link} | **{c['verdict']}** |" for c in one["claims"]]
    return "\n".join(lines)


def _anchor(title: str) -> str:
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def _section(one: Mapping[str, Any], sheet: str) -> str:
    headings = one["headings"]
    lines = [f"## {one['title']}", "", f"{one['about']} Source: {one['source']}.".strip(), ""]
    lines.append(f"| way | {' | '.join(headings.values())} | evaluations | seconds |")
    lines.append("| --- |" + " --- |" * (len(headings) + 2))
    for way in one["ways"]:
        cells = [_entry(way["readings"].get(reading)) for reading in headings]
        spent = f"{way['evaluations']:,.0f} | {way['seconds']:.2g}"
        lines.append(f"| {way['label']} | {' | '.join(cells)} | {spent} |")
    if one["claims"]:
        lines += ["", "| claim | difference | p | its way | verdict |"]
        lines.append("| --- | --- | --- | --- | --- |")
        lines += [_claim(claim) for claim in one["claims"]]
    if sheet:
        lines += ["", f"![{one['title']}]({sheet})"]
    return "\n".join(lines)


def _entry(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"{_number(found['mean'])} ({_number(found['low'])} to {_number(found['high'])})"


def _claim(claim: Mapping[str, Any]) -> str:
    kept = "" if claim["within"] is None else f" (kept within {_number(claim['within'])})"
    if not claim["pairs"]:
        return f"| {claim['says']}{kept} | | | | {claim['verdict']} |"
    gap = f"{_number(claim['difference'])} ({_number(claim['low'])} to {_number(claim['high'])})"
    wins = f"{claim['wins']} of {claim['pairs']}"
    p = f"{claim['p']:.3f}" if claim["p"] >= 0.001 else "< 0.001"
    return f"| {claim['says']}{kept} | {gap} | {p} | {wins} | **{claim['verdict']}** |"


def _number(value: float) -> str:
    size = abs(value)
    if 0 < size < 0.01:
        return f"{value:.1g}"
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
