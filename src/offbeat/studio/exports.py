"""Export a run's concept for other tools, and build a request that continues a run."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

import offbeat
from offbeat.errors import ConfigError
from offbeat.runs.folder import RunFolder
from offbeat.runs.map import kept_steps
from offbeat.studio import requests, shelf
from offbeat.studio.database import Row
from offbeat.studio.files import allowed_file, allowed_names

NOT_CHANGED = ("verb", "start", "parent")


def exported(folder: Path, style: str, token: str | None, index: int | None) -> tuple[str, bytes]:
    """Return the name and content of a concept's file, or of a zip where there are several.

    Raises:
        OffbeatError: If nothing was learned, or the format does not fit.
    """
    source = str(folder)
    if index is not None and (folder / "concepts").is_dir():
        source = f"{folder}:{index}"
    with tempfile.TemporaryDirectory() as place:
        paths = offbeat.export_concept(source, style, token=token, out=place)
        if len(paths) == 1:
            return paths[0].name, paths[0].read_bytes()
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for path in paths:
                archive.write(path, path.relative_to(place).as_posix())
        return f"{paths[0].stem}.zip", data.getvalue()


def zipped(folder: Path, run: str) -> bytes:
    """Return every file of a run that a browser may read, as a ZIP archive."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:  # pictures are compressed already
        for name in allowed_names(folder):
            path = allowed_file(folder, name)
            if path is not None:
                archive.write(path, f"{run}/{name}")
    return data.getvalue()


def continued(folder: Path, row: Row, wish: requests.Continue) -> Any:
    """Return the request of an exploration that continues from a kept step of another run.

    Raises:
        ConfigError: If the run is no search, or a change is not possible.
    """
    if row["verb"] != "explore" or not (folder / "request.json").exists():
        raise ConfigError("continue: expected an exploration that has begun")
    run = RunFolder.open(folder)
    step, trial = wish.step, wish.trial
    if wish.region is not None:
        step, trial = _nearest(folder, wish.region)
    kept = sorted(kept_steps(run, trial))
    if step is not None and kept:
        step = max((number for number in kept if number <= step), default=kept[0])
    if step is None and row["state"] != "finished":
        step = kept[-1] if kept else None
        if step is None:
            raise ConfigError("continue: the search kept no step yet")
    if changed := set(wish.changes) & set(NOT_CHANGED):
        raise ConfigError(f"changes: {', '.join(sorted(changed))} cannot be changed here")
    start = {"run": row["id"], "step": step, "trial": trial}
    request = {"num_images": 8, **row["request"], **wish.changes, "start": start}
    for name, other in (("reach", "novelty"), ("novelty", "reach")):
        if wish.changes.get(name) is not None:
            request.pop(other, None)
    try:
        return TypeAdapter(requests.JobRequest).validate_python(request)
    except ValidationError as error:
        said = "; ".join(
            f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()[:3]
        )
        raise ConfigError(f"changes: {said}") from error


def _nearest(folder: Path, region: requests.Region) -> tuple[int, int]:
    """Return the kept step whose samples lie nearest the middle of a lasso, and its search."""
    middle = [sum(axis) / len(region) for axis in zip(*region, strict=True)]
    steps = [at for at in shelf.map_of(folder, "")["steps"] if at["kept"] and at["median"]]
    if not steps:
        raise ConfigError("region: no kept step has points on the map; name a step instead")

    def distance(at: dict[str, Any]) -> float:
        return float(sum((a - b) ** 2 for a, b in zip(at["median"], middle, strict=True)))

    nearest = min(steps, key=distance)
    return int(nearest["step"]), int(nearest["trial"])
