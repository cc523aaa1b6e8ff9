"""Time a sweep of 24 runs on two workers beside one: processes, checkpoints loaded once each."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from offbeat.bench.ratio import Ratio
from offbeat.scale.sweep import run_plan

NUM_TASKS, NUM_IMAGES = 24, 8
MAX_RUNS = 2
PLAN = {
    "verb": "generate",
    "set": {"prompt": "a picture of a handbag", "num_images": NUM_IMAGES, "backbone": "pocket"},
    "grid": {"seed": list(range(NUM_TASKS))},
}


def ratios(backbone: object, runs: int) -> list[Ratio]:
    """Return the comparison; its plain side is one worker, and starting the workers counts.

    Args:
        backbone: Not used: each worker loads its own.
        runs: Counted runs of each side, ``MAX_RUNS`` at most: each takes a minute.
    """
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(min(runs, MAX_RUNS)):
        for workers, seconds in times.items():
            seconds.append(_seconds(workers))
    what = f"a sweep of {NUM_TASKS} runs of {NUM_IMAGES} pictures on two workers; plain: on one"
    return [Ratio(what, times[2], times[1], float("nan"))]


def _seconds(workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        plan: dict[str, Any] = PLAN
        started = time.perf_counter()
        run_plan(plan, out=Path(folder) / "sweep", workers=workers)
        return time.perf_counter() - started
