"""Run a plan: tasks to workers, outcomes to the results, one report at the end."""

from __future__ import annotations

import inspect
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from offbeat.checkpoints.placement import Placement
from offbeat.errors import BusyError, StoreError
from offbeat.files.disk import FolderLock, json_bytes
from offbeat.runs.folder import REQUEST
from offbeat.scale.engine import open_engine
from offbeat.scale.local import LocalEngine
from offbeat.scale.plan import VERBS, Plan, Task, read_plan
from offbeat.scale.report import write_report
from offbeat.scale.store import Results, Store, facts_of
from offbeat.scale.worker import Engine, LostFolderError, Outcome, Worker
from offbeat.types import Observe, ignore

BUSY_SECONDS = 60
"""How long a worker waits for a run folder that a dying process still holds."""


@dataclass(frozen=True)
class Perform:
    """The job of a sweep: one task, one run folder."""

    out: str
    placement: Placement | None

    def __call__(self, worker: Worker, task: Task) -> dict[str, Any]:
        """Run a task, or go on with it; return what its row says of it."""
        store = Store(self.out)
        store.check()
        spent, loading = None, worker.kept.seconds
        if not store.finished(task.folder):
            spent = self._run(store, task)
        return {
            "evaluations": spent,
            "loading": worker.kept.seconds - loading,
            "facts": facts_of(store, task.folder),
        }

    def _run(self, store: Store, task: Task) -> dict[str, int] | None:
        folder, verb = store.run_folder(task.folder), VERBS[task.verb]
        takes, arguments = inspect.signature(verb).parameters, dict(task.arguments)
        if self.placement is not None:
            arguments["device"] = self.placement
        begun = (folder / REQUEST).exists()
        if "resume" in takes:
            arguments["resume"] = begun
        elif begun:  # what cannot go on is short: it is done anew
            shutil.rmtree(folder)
        give_up = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                run = verb(**arguments, out=folder)
                break
            except BusyError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(1)
        store.deliver(task.folder)
        evaluations = getattr(run, "evaluations", None)
        return None if evaluations is None else asdict(evaluations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What became of a plan."""

    out: str
    num_tasks: int
    done: int = 0
    """Finished, with those of an earlier driver."""
    skipped: int = 0
    """Finished by an earlier driver."""
    failed: int = 0
    seconds: float = 0.0
    task_seconds: float = 0.0
    """Mean of the tasks that were run now."""
    task_evaluations: float | None = None
    """Mean of the tasks that can count."""
    loads: int = 0
    """Checkpoints loaded by all workers together."""
    workers: int = 0
    problems: tuple[str, ...] = field(default=())
    """The first failures, one line each."""

    @property
    def in_words(self) -> str:
        """What became of it in a sentence."""
        text = f"{self.done:,} of {self.num_tasks:,} tasks are done"
        text += f", {self.skipped:,} of them before" if self.skipped else ""
        text += f"; {self.failed:,} failed" if self.failed else ""
        return f"{text}. {self.seconds:.0f} s on {self.workers} workers, {self.loads} loads."


def run_plan(
    plan: str | Path | Mapping[str, Any],
    *,
    out: str | Path,
    resume: bool = False,
    workers: int | None = None,
    threads: int = 1,
    ray: str | None = None,
    placement: Placement | None = None,
    observe: Observe = ignore,
) -> Sweep:
    """Run every task of a plan, each into a run folder of its own, and write one report.

    Args:
        plan: A YAML file, or a mapping of the same form: see ``docs/scale.md``.
        out: Folder that all workers see, or an address of fsspec, e.g. ``s3://bucket/sweep``.
        resume: Go on with the sweep in ``out``: finished tasks are skipped, half-finished runs go
            on, failed ones are tried again. The plan may have grown.
        workers: Processes; None is one for each card or core.
        threads: CPU threads of each. With 1, no byte depends on the number of workers.
        ray: Address of a Ray cluster, or ``auto``; None works on this machine.
        placement: Where every task runs; None is each verb's own.
        observe: Told how many tasks ended, of how many, with ``seconds_left``.

    Raises:
        ConfigError: If the plan cannot be run.
        StoreError: If ``out`` is full, lost, or holds something else.
        MissingExtraError: If Ray is asked for and not installed.
    """
    tasks = read_plan(plan, placement)
    corners = [tasks.task(number) for number in _corners(tasks)]
    engine = open_engine(
        workers,
        threads=threads,
        ray=ray,
        sources=[(task.verb, dict(task.arguments)) for task in corners],
        placement=placement,
    )
    try:
        return execute(tasks, engine, out, resume=resume, observe=observe)
    finally:
        engine.close()


def _corners(plan: Plan) -> list[int]:
    """Return tasks that name every checkpoint of a plan: the slowest axis."""
    count = len(plan.axes["backbone"]) if "backbone" in plan.axes else 1
    return [at * (len(plan) // count) for at in range(count)]


def execute(
    plan: Plan,
    engine: Engine,
    out: str | Path,
    *,
    resume: bool = False,
    observe: Observe = ignore,
    job: Any = None,
) -> Sweep:
    """Run a plan on an engine; ``job`` is another than ``Perform``, for tests of the engine."""
    store = Store(out)
    store.begin(plan.as_json, resume=resume)
    lock = FolderLock.take(store.here)  # one driver at a time
    tally = Tally(plan, store, engine.num_workers, observe)
    job = job or Perform(store.out, plan.placement)
    for outcome in engine.run(job, tally.open_tasks()):
        tally.take(outcome)
    result = tally.sweep()
    write_report(plan, store, tally.results, result.in_words)
    store.write("summary.json", json_bytes({"in_words": result.in_words, **asdict(result)}))
    del lock
    return result


class Tally:
    """Counts what ended, and writes a row of each."""

    def __init__(self, plan: Plan, store: Store, workers: int, observe: Observe) -> None:
        self.plan, self.store, self.workers, self.observe = plan, store, workers, observe
        self.results = Results(store, len(plan))
        self.started = time.monotonic()
        self.done = self.skipped = self.failed = self.ran = 0
        self.seconds = 0.0
        self.evaluations: list[float] = [0.0, 0.0]
        """Their sum, and the number of tasks that counted."""
        self.loads: dict[str, int] = {}
        self.problems: list[str] = []
        self._given: dict[int, Task] = {}
        """Tasks with workers, by the number that the engine knows."""

    def open_tasks(self) -> Iterator[Task]:
        """Yield the tasks that are not finished yet."""
        count = 0
        for task in self.plan:
            if self.store.finished(task.folder):
                self.done, self.skipped = self.done + 1, self.skipped + 1
                if not self.results.recall(task.number, task.key):
                    row = {"seconds": None, "evaluations": None, "worker": None}
                    self._add(task, "done", row, facts_of(self.store, task.folder))
                continue
            self._given[count] = task
            count += 1
            yield task

    def take(self, outcome: Outcome) -> None:
        """Write the row of a task that ended.

        Raises:
            StoreError: If all others would fail, too.
        """
        self.store.check()
        if outcome.fatal:
            kind = LostFolderError if "not there" in outcome.error else StoreError
            raise kind(f"{outcome.error} ({outcome.worker}; go on with --resume)")
        task = self._given.pop(outcome.number)
        self.loads[outcome.worker] = max(self.loads.get(outcome.worker, 0), outcome.loads)
        value = outcome.value or {}
        spent = value.get("evaluations")
        row = {
            "seconds": round(outcome.seconds, 3),
            "evaluations": None if spent is None else sum(spent.values()),
            "worker": outcome.worker,
        }
        if outcome.error:
            self.failed += 1
            self.problems = [*self.problems, f"{task.folder}: {outcome.error}"][:20]
            self._add(task, "failed", {**row, "error": outcome.error}, {})
        else:
            self.done, self.ran = self.done + 1, self.ran + 1
            self.seconds += outcome.seconds
            if spent is not None:
                self.evaluations[0] += sum(spent.values())
                self.evaluations[1] += 1
            self._add(task, "done", row, value.get("facts", {}))
        self._show()

    def _add(
        self, task: Task, state: str, row: Mapping[str, Any], facts: Mapping[str, Any]
    ) -> None:
        head = {"number": task.number, "key": task.key, "folder": task.folder, "state": state}
        self.results.add({**head, "axes": dict(task.axes), **row, "facts": dict(facts)})

    def _show(self) -> None:
        ended, total = self.done + self.failed, len(self.plan)
        pace = (time.monotonic() - self.started) / max(1, ended - self.skipped)
        self.observe("tasks", ended, total, {"seconds_left": pace * (total - ended)})

    def sweep(self) -> Sweep:
        """Return what became of the plan."""
        total, counted = self.evaluations
        return Sweep(
            out=self.store.out,
            num_tasks=len(self.plan),
            done=self.done,
            skipped=self.skipped,
            failed=self.failed,
            seconds=time.monotonic() - self.started,
            task_seconds=self.seconds / self.ran if self.ran else 0.0,
            task_evaluations=total / counted if counted else None,
            loads=sum(self.loads.values()),
            workers=self.workers,
            problems=tuple(self.problems),
        )


def try_first(
    plan: str | Path | Mapping[str, Any],
    *,
    workers: int | None = None,
    threads: int = 1,
    placement: Placement | None = None,
    measure: bool = True,
) -> dict[str, Any]:
    """Return how much a plan is: its tasks, and by its first task evaluations and seconds.

    Nothing is kept of the first task.

    Args:
        plan: See ``run_plan``.
        workers: That the seconds are expected for.
        threads: CPU threads of each.
        placement: Where the task runs.
        measure: Run the first task; without, only what needs no run is returned.
    """
    tasks = read_plan(plan, placement)
    summary: dict[str, Any] = {
        "tasks": len(tasks),
        "axes": {name: len(values) for name, values in tasks.axes.items()},
        "list": len(tasks.entries),
        "sampled": tasks.num_draws,
        "first": {"folder": tasks.task(0).folder, **tasks.task(0).arguments},
    }
    if not measure:
        return summary
    count = workers or LocalEngine().num_workers
    engine = LocalEngine(1, threads=threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "plan.json").write_bytes(json_bytes(tasks.as_json))
            outcomes = [*engine.run(Perform(folder, placement), [tasks.task(0)])]
    finally:
        engine.close()
    (outcome,) = outcomes
    if outcome.error:
        raise StoreError(f"the first task failed: {outcome.error}")
    spent, loading = outcome.value["evaluations"], outcome.value["loading"]
    each = outcome.seconds - loading
    return {
        **summary,
        "workers": count,
        "load_seconds": round(loading, 2),
        "task_seconds": round(each, 2),
        "seconds": round(loading + each * len(tasks) / min(count, len(tasks)), 1),
        "task_evaluations": spent and sum(spent.values()),
        "evaluations": spent and sum(spent.values()) * len(tasks),
    }
