"""The shelf: runs as the page shows them, read from their folders."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from offbeat.runs.folder import RunFolder
from offbeat.runs.map import BASELINE_FILE, baseline_of, map_of_run
from offbeat.studio.database import Database, Row
from offbeat.studio.files import allowed_names
from offbeat.studio.requests import PictureRef

API = "/api/v1"
MAX_NODES = 200
"""Of a lineage."""
NUM_ORDINARY = 1000
"""Of a map."""
_VERDICT = ("answer", "probability", "judge", "note")
_PREVIEW = re.compile(r"trials/(\d+)/states/(\d+)/preview-(\d+)\.png")
_STATE = re.compile(r"trials/(\d+)/states/(\d+)/concept\.safetensors")
_NUMBERED = re.compile(r"(images|ordinary)/(\d+)\.png")
_SHOWN = (
    "id", "verb", "title", "subject", "method", "backbone", "created", "ended", "note",
    "num_images", "num_concepts", "in_words",
)  # fmt: skip


def url_of(run: str, name: str) -> str:
    """Return the URL of a run's file."""
    return f"{API}/runs/{run}/files/{name}"


def entry(row: Row, session: str) -> dict[str, Any]:
    """Return a run as a list shows it to a session."""
    return {
        **{name: row[name] for name in _SHOWN},
        "state": row["state"],
        "favourite": bool(row["favourite"]),
        "shared": bool(row["shared"]),
        "own": row["session"] == session,
        "brought": row["session"] == "",
        "deleted": row["deleted"] is not None,
        "cover": url_of(row["id"], row["cover"]) if row["cover"] else None,
    }


def picture_of(run: str, name: str, step: int | None = None) -> dict[str, Any]:
    """Return a picture in the API's form."""
    kind, index, trial = "images", 0, None
    if match := _NUMBERED.fullmatch(name):
        kind, index = match[1], int(match[2])
    elif match := _PREVIEW.fullmatch(name):
        kind, trial, step, index = "previews", int(match[1]), int(match[2]), int(match[3])
    url = url_of(run, name)
    return {"kind": kind, "index": index, "step": step, "trial": trial, "url": url}


def pictures(folder: Path, run: str) -> list[dict[str, Any]]:
    """Return the pictures drawn so far."""
    names = allowed_names(folder)
    shown = (name for name in names if _NUMBERED.fullmatch(name) or _PREVIEW.fullmatch(name))
    return [picture_of(run, name) for name in shown]


def picture_file(picture: PictureRef, names: list[str]) -> str | None:
    """Return the file of a picture that a request names."""
    step, index = picture.step, picture.index
    if picture.kind == "previews" and step is None:  # as requests of before named it
        step, index = index, 0
    for name in names:
        numbered, preview = _NUMBERED.fullmatch(name), _PREVIEW.fullmatch(name)
        if numbered and (numbered[1], int(numbered[2])) == (picture.kind, index):
            return name
        wanted = (picture.trial, step, index)
        if preview and picture.kind == "previews" and tuple(map(int, preview.groups())) == wanted:
            return name
    return None


def point_of(probe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the centre and spread of fresh samples on the map."""
    points = probe.get("axes") or []
    middle = [median(axis) for axis in zip(*points, strict=True)] if points else None
    names = ("distance_p10", "distance_p90", "quantile")
    return {
        "points": points,
        "median": middle,
        "distance": probe.get("distance_median"),
        **{name: probe.get(name) for name in names},
    }


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON file of a run; an empty one where it is absent."""
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    """Return a list of objects; of what else a plug-in wrote there, empty ones or none."""
    rows = value if isinstance(value, list) else []
    return [row if isinstance(row, dict) else {} for row in rows]


def _texts(value: Any) -> list[str]:
    """Return the texts of a list."""
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _verdict(verdict: Any, judge: Any) -> dict[str, Any] | None:
    """Return what ``judge`` said, if anything; rivals write no more than answer and probability."""
    if not isinstance(verdict, dict) or "answer" not in verdict:
        return None
    return {name: verdict.get(name) for name in _VERDICT} | {"judge": verdict.get("judge") or judge}


def detail(folder: Path, row: Row, session: str, database: Database) -> dict[str, Any]:
    """Return everything that the page shows of one run."""
    summary, request = read_json(folder, "summary.json"), read_json(folder, "request.json")
    run, names = row["id"], allowed_names(folder)
    edges = database.edges(run)
    return {
        **entry(row, session),
        "request": row["request"],
        "summary": summary,
        "warnings": _texts(summary.get("warnings")),
        "settings": request,
        "pictures": list(_pictures(run, names, summary, row, database.marks(session).get(run, {}))),
        "concepts": _concepts(names, summary, row),
        "steps": _steps(run, names),
        "files": [
            {"name": name, "bytes": (folder / name).stat().st_size, "url": url_of(run, name)}
            for name in names
        ],
        "parents": [
            {"run": source, "how": how}
            for source, target, how in edges
            if target == run and visible(database.run(source), session)
        ],
        "children": [
            {"run": target, "how": how}
            for source, target, how in edges
            if source == run and visible(database.run(target), session)
        ],
    }


def visible(row: Row | None, session: str) -> bool:
    """Return whether a session may see a run: its own, or one that is shared."""
    if row is None:
        return False
    shared = row["shared"] and row["state"] == "finished" and row["deleted"] is None
    return bool(row["session"] == session or shared)


def _pictures(
    run: str,
    names: list[str],
    summary: Mapping[str, Any],
    row: Row,
    marks: Mapping[int, int],
) -> Iterator[dict[str, Any]]:
    readings, concepts = _objects(summary.get("images")), _objects(summary.get("concepts"))
    each = max(1, row["num_images"] // max(1, len(concepts) or 1))
    for name in names:
        if not (_NUMBERED.fullmatch(name) or _PREVIEW.fullmatch(name)):
            continue
        picture = picture_of(run, name)
        reading: Mapping[str, Any] = {}
        concept, caption = None, None
        if picture["kind"] == "images":
            index = picture["index"]
            reading = readings[index] if index < len(readings) else {}
            concept = reading.get("direction")
            if concepts:
                concept = min(index // each, len(concepts) - 1)
                texts = _texts(concepts[concept].get("images"))
                caption = texts[index % each] if index % each < len(texts) else None
        yield {
            **picture,
            "concept": concept,
            "caption": caption,
            **{name: reading.get(name) for name in ("distance", "quantile", "axes", "seen")},
            "verdict": _verdict(reading.get("verdict") or reading, summary.get("judge")),
            "mark": marks.get(picture["index"], 0) if picture["kind"] == "images" else None,
        }


def _concepts(names: list[str], summary: Mapping[str, Any], row: Row) -> list[dict[str, Any]]:
    rows = _objects(summary.get("concepts"))
    kept = any(name.endswith("concept.safetensors") and "trials" not in name for name in names)
    concepts = []
    for index in range(row["num_concepts"] if kept else 0):
        reading = rows[index] if index < len(rows) else {}
        texts = _texts(reading.get("images"))
        concepts.append(
            {
                "index": index,
                "weights": reading.get("weights"),
                "share": reading.get("share"),
                "caption": texts[0] if texts else None,
                "exportable": True,
            }
        )
    return concepts


def _steps(run: str, names: list[str]) -> list[dict[str, Any]]:
    shown = {
        (int(match[1]), int(match[2])): name
        for name in reversed(names)
        if (match := _PREVIEW.fullmatch(name))
    }
    kept = [(int(match[1]), int(match[2])) for name in names if (match := _STATE.fullmatch(name))]
    return [
        {"trial": trial, "step": step, "url": url_of(run, shown[trial, step])
         if (trial, step) in shown else None}
        for trial, step in sorted(kept)
    ]  # fmt: skip


# --- charts


def map_of(folder: Path, run: str) -> dict[str, Any]:
    """Return coordinates for a chart, of a running exploration too.

    Raises:
        StoreError: If it is no exploration, or has not measured the ordinary yet.
    """
    map_ = map_of_run(folder, num_ordinary=NUM_ORDINARY)
    summary = read_json(folder, "summary.json")
    for at in map_["steps"]:
        at |= point_of(at.pop("probe"))
    pictures_at = [
        {"kind": "images", "index": index, "axes": reading.get("axes"),
         "url": url_of(run, f"images/{index:04d}.png")}
        for index, reading in enumerate(_objects(summary.get("images")))
    ]  # fmt: skip
    return {"axes": ["first axis", "second axis"], **map_, "pictures": pictures_at}


def curve_of(folder: Path) -> dict[str, Any]:
    """Return the readings of a run by step, of a running one too."""
    summary = read_json(folder, "summary.json")
    there = (folder / "request.json").exists()
    trace = RunFolder.open(folder).trace() if there else []
    ordinary = summary.get("ordinary_distance")
    if ordinary is None and there and (run := RunFolder.open(folder)).exists(BASELINE_FILE):
        ordinary = baseline_of(run).ordinary_distance  # it still runs
    gap = max(1, len(trace) // 2000)
    return {
        "target_distance": summary.get("target_distance"),
        "ordinary_distance": ordinary,
        "rows": [_row(row) for row in trace[::gap]],
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {
        name: value
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    probe = row.get("probe")
    probe = probe if isinstance(probe, dict) else {}
    return {
        "trial": 0,
        **numbers,
        "step": int(numbers.get("step", 0)) + 1,
        "branch": row.get("branch"),
        "distance_p10": probe.get("distance_p10"),
        "distance_p90": probe.get("distance_p90"),
        "verdict": _verdict(row.get("verdict"), None),
    }


def lineage(database: Database, run: str, session: str) -> dict[str, Any]:
    """Return what a run comes from and what came from it, as far as a session may see it."""
    rows: dict[str, Row] = {}
    edges: set[tuple[str, str, str]] = set()
    todo = [run]
    while todo and len(rows) < MAX_NODES:
        name = todo.pop(0)
        row = database.run(name)
        if name in rows or row is None or not visible(row, session):
            continue
        rows[name] = row
        for source, target, how in database.edges(name):
            edges.add((source, target, how))
            todo.append(target if source == name else source)
    return {
        "nodes": [entry(row, session) for row in rows.values()],
        "edges": [
            {"from": source, "to": target, "how": how}
            for source, target, how in sorted(edges)
            if source in rows and target in rows
        ],
    }
