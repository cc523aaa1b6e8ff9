"""Collect what a run drew inside a region of its map, as a cluster to keep away from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.core.baseline import Baseline
from offbeat.errors import ConfigError, StoreError
from offbeat.files.concept import CONCEPT_FILE
from offbeat.files.disk import unpack_tensors
from offbeat.runs.folder import RunFolder

BASELINE_FILE = "baseline.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A lasso on the map of an exploration."""

    run: str
    """Its folder."""
    region: Sequence[tuple[float, float]]
    """Corners of a polygon, in the map's coordinates."""
    step: int | None = None
    """Only what this kept step drew; None is every kept step."""

    def __post_init__(self) -> None:
        if len(self.region) < 3:
            raise ConfigError(f"region: expected 3 corners or more, got {len(self.region)}")


def baseline_of(run: RunFolder) -> Baseline:
    """Return what an exploration measured as ordinary, as soon as it has.

    Raises:
        StoreError: If it has not, or is no exploration.
    """
    if not run.exists(BASELINE_FILE):
        raise StoreError(f"{run.path}: has no map: it is no exploration, or has just begun")
    return Baseline.unpack(*unpack_tensors(run.read(BASELINE_FILE)))


def kept_steps(run: RunFolder, trial: int | None = None) -> dict[int, str]:
    """Return the steps of a search whose concept is kept, and the folder of each.

    Args:
        run: An exploration, finished or not.
        trial: Of it; None is the best, or the first.
    """
    if trial is None:
        trial = int(run.read_json("summary.json")["trial"]) if run.exists("summary.json") else 0
    under, ending = f"trials/{trial}/states/", f"/{CONCEPT_FILE}"
    names = (name for name in run.names() if name.startswith(under) and name.endswith(ending))
    steps = {int(name[len(under) :].split("/")[0]): name.removesuffix(ending[1:]) for name in names}
    return dict(sorted(steps.items()))


def inside(points: Tensor, polygon: Sequence[tuple[float, float]]) -> Tensor:
    """Return which of ``points``, ``[N, 2]``, lie in a polygon, ``[N]``: the even-odd rule.

    >>> square = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    >>> inside(torch.tensor([[0.5, 0.5], [1.5, 0.5]]), square).tolist()
    [True, False]
    """
    covered = torch.zeros(len(points), dtype=torch.bool)
    x, y = points.double().T
    for (x1, y1), (x2, y2) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if y1 == y2:
            continue
        crosses = (y < y1) != (y < y2)
        covered ^= crosses & (x < x1 + (y - y1) / (y2 - y1) * (x2 - x1))
    return covered


def map_of_run(folder: str | Path, *, num_ordinary: int = 1000) -> dict[str, Any]:
    """Return where an exploration's samples lie along the first two axes, as JSON values.

    Args:
        folder: A run folder, finished or not.
        num_ordinary: At most so many ordinary samples, evenly taken.

    Returns:
        ``num_components`` of the space, ``num_ordinary`` samples measured, their
        ``ordinary_distance`` from their middle, ``ordinary``, ``[[x, y], ...]``, and ``steps``:
        each with ``trial``, ``step`` (steps done), ``kept`` and its ``probe``, as in the trace.

    Raises:
        StoreError: If it is no exploration, or has not measured the ordinary yet.
    """
    run = RunFolder.open(folder)
    baseline = baseline_of(run)
    trace = run.trace()
    kept = {trial: set(kept_steps(run, trial)) for trial in {row["trial"] for row in trace}}
    points = baseline.coordinates[:, :2]
    gap = -(-len(points) // num_ordinary)
    return {
        "num_components": baseline.space.num_components,
        "num_ordinary": len(points),
        "ordinary_distance": baseline.ordinary_distance,
        "ordinary": [[round(x, 4), round(y, 4)] for x, y in points[::gap].tolist()],
        "steps": [
            {
                "trial": row["trial"],
                "step": row["step"] + 1,
                "kept": row["step"] + 1 in kept[row["trial"]],
                "probe": row["probe"],
            }
            for row in trace
            if row.get("probe")
        ],
    }
