"""What one worker does: keep checkpoints loaded, do one item after another, say what went wrong."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from offbeat.checkpoints.open import Kept
from offbeat.errors import OffbeatError, StoreError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Faults of a disk that the next task would meet, too."""
RETRIES = 2
"""How often an item is tried again whose worker died."""


class LostFolderError(StoreError):
    """The folder of a sweep is not there, or not there on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one item."""

    number: int
    value: Any = None
    error: str = ""
    """One line; empty where it went well."""
    fatal: bool = False
    """Whether all others would fail in the same way."""
    seconds: float = 0.0
    worker: str = ""
    loads: int = 0
    """Checkpoints that this worker has loaded so far."""


Job = Callable[["Worker", Any], Any]
"""Does one item. It travels to other processes: a function of a module, or an object of a class."""


class Engine(Protocol):
    """Several workers."""

    num_workers: int

    def run(self, job: Job, items: Iterable[Any]) -> Iterator[Outcome]:
        """Do items, and yield outcomes as they come; ``number`` counts the items.

        Items are taken when a worker is free for one, so any number of them may follow.
        """
        ...

    def close(self) -> None:
        """End all workers, at once."""
        ...


def in_order(outcomes: Iterable[Outcome]) -> list[Any]:
    """Return the values of all outcomes in the order of their items.

    Raises:
        OffbeatError: With the first that failed.
    """
    values: dict[int, Any] = {}
    for outcome in outcomes:
        if outcome.error:
            raise OffbeatError(f"a part of the work failed on {outcome.worker}: {outcome.error}")
        values[outcome.number] = outcome.value
    return [values[number] for number in sorted(values)]


class Worker:
    """One process at work, with the checkpoints that it has loaded."""

    def __init__(self, name: str, threads: int) -> None:
        self.name, self.threads = name, threads
        self.kept = Kept()
        self.memory: dict[Any, Any] = {}
        """What a job keeps from one item to the next."""

    def do(self, job: Job, number: int, item: Any) -> Outcome:
        """Do one item; whatever goes wrong is told, not raised."""
        started, value, error, fatal = time.perf_counter(), None, "", False
        torch.set_num_threads(self.threads)
        try:
            with self.kept.used():
                value = job(self, item)
        except Exception as problem:  # a fault of one task must not end the others
            error = " ".join(str(problem).split()) or type(problem).__name__
            if not isinstance(problem, OffbeatError):
                error = f"{type(problem).__name__}: {error}"
            fatal = is_fatal(problem)
        return Outcome(
            number=number,
            value=value,
            error=error,
            fatal=fatal,
            seconds=time.perf_counter() - started,
            worker=self.name,
            loads=self.kept.loads,
        )


class InlineEngine:
    """No other process: the caller's own, with as many threads as it has."""

    num_workers = 1

    def __init__(self, threads: int | None = None) -> None:
        self._worker = Worker("this process", threads or torch.get_num_threads())

    def run(self, job: Job, items: Iterable[Any]) -> Iterator[Outcome]:
        """Do items one after the other."""
        return (self._worker.do(job, number, item) for number, item in enumerate(items))

    def close(self) -> None:
        """Forget what was loaded."""
        self._worker = Worker("this process", self._worker.threads)


def is_fatal(problem: BaseException) -> bool:
    """Return whether a fault would meet every task: the disk is full, or the folder is lost."""
    chain: BaseException | None = problem
    while chain is not None:
        full = isinstance(chain, OSError) and chain.errno in FULL
        if full or isinstance(chain, LostFolderError):
            return True
        chain = chain.__cause__
    return False


def died(number: int, worker: str, times: int) -> Outcome:
    """Return the outcome of an item whose workers died."""
    told = f"the process died {times} times at this task: killed, or out of memory"
    return Outcome(number=number, error=told, worker=worker)


def nothing(worker: Worker, item: Any) -> Mapping[str, Any]:
    """Do nothing: what an engine costs by itself."""
    return {}
