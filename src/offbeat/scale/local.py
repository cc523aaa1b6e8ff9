"""Workers of one machine: a process for each card, or for each core."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from offbeat.core.checks import check_whole
from offbeat.scale.worker import RETRIES, Job, Outcome, Worker, died

_WORKER: Worker | None = None
"""Of this process, if it is one."""


class LocalEngine:
    """A pool of processes; each is a pool of one, so that a death is known by its item.

    Args:
        num_workers: Processes; None is one for each card, or for each core where there is none.
        threads: CPU threads of each. With 1, results do not depend on the number of workers.
    """

    def __init__(self, num_workers: int | None = None, *, threads: int = 1) -> None:
        cards = torch.cuda.device_count()
        self.num_workers = (cards or os.cpu_count() or 1) if num_workers is None else num_workers
        check_whole("workers", self.num_workers, 1, 1024)
        check_whole("threads", threads, 1, 1024)
        self._threads, self._cards = threads, cards
        self._pools: dict[int, ProcessPoolExecutor] = {}

    def run(self, job: Job, items: Iterable[Any]) -> Iterator[Outcome]:
        """Do items, and yield outcomes as they come."""
        left, tries = enumerate(items), dict[int, int]()
        free = list(range(self.num_workers))
        busy: dict[Future[Outcome], tuple[int, int, Any]] = {}
        again: list[tuple[int, Any]] = []
        while True:
            while free and (taken := again.pop() if again else next(left, None)) is not None:
                rank = free.pop(0)
                busy[self._submit(rank, job, *taken)] = (rank, *taken)
            if not busy:
                return
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                rank, number, item = busy.pop(future)
                free.append(rank)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    self._pools.pop(rank).shutdown(wait=False)
                    tries[number] = tries.get(number, 0) + 1
                    if tries[number] <= RETRIES:
                        again.append((number, item))
                    else:
                        yield died(number, f"worker {rank}", tries[number])

    def _submit(self, rank: int, job: Job, number: int, item: Any) -> Future[Outcome]:
        if rank not in self._pools:
            card = None if self._cards == 0 else _card(rank, self._cards)
            self._pools[rank] = ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), _start, (rank, self._threads, card)
            )
        try:
            return self._pools[rank].submit(_do, job, number, item)
        except BrokenProcessPool:  # it died while it was idle
            del self._pools[rank]
            return self._submit(rank, job, number, item)

    def close(self) -> None:
        """End all workers, at once."""
        for pool in self._pools.values():
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
        self._pools.clear()


def _card(rank: int, cards: int) -> str:
    """Return the one card that a worker sees: of those that this process sees."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return (named.split(",") if named else [str(card) for card in range(cards)])[rank % cards]


def _start(rank: int, threads: int, card: str | None) -> None:
    global _WORKER
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends its workers itself
    if card is not None:  # read when CUDA is first used, which is later
        os.environ["CUDA_VISIBLE_DEVICES"] = card
    threading.Thread(target=_end_with_driver, daemon=True).start()
    _WORKER = Worker(f"worker {rank}", threads)


def _end_with_driver() -> None:
    """End this process when the driver is gone; run folders are whole at every moment."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)


def _do(job: Job, number: int, item: Any) -> Outcome:
    assert _WORKER is not None
    return _WORKER.do(job, number, item)
