"""The map of an exploration as numbers: what a chart draws, of a running one too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offbeat._regions import baseline_of, kept_steps
from offbeat.store import RunFolder


def map_of_run(folder: str | Path, *, num_ordinary: int = 1000) -> dict[str, Any]:
    """Return where an exploration's samples lie along the first two axes, as JSON values.

    Args:
        folder: A run folder, finished or not.
        num_ordinary: At most so many ordinary samples, evenly taken.

    Returns:
        ``num_components`` of the space, ``num_ordinary`` samples measured, ``ordinary``,
        ``[[x, y], ...]``, and ``steps``: each with ``trial``, ``step`` (steps done), ``kept`` and
        its ``probe``, as in the trace.

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
