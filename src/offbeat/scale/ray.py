"""Workers of a Ray cluster: actors that hold loaded checkpoints, on any number of machines.

An actor whose process dies is started again by Ray, with its item. An actor that gives no sign of
life for ``patience`` seconds, as of a lost machine, is given up: its item goes to another, and a
new actor joins when the cluster has room for one again.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from offbeat.checkpoints.known.unclip import is_bundled
from offbeat.checkpoints.memory import needed
from offbeat.checkpoints.placement import Placement
from offbeat.checkpoints.sizes import survey
from offbeat.core.checks import check_whole
from offbeat.errors import CheckpointError, ConfigError, MissingExtraError, UnknownNameError
from offbeat.files.cache import shared
from offbeat.scale.plan import source_of
from offbeat.scale.worker import RETRIES, Job, Outcome, Worker, died

PATIENCE, BEAT = 60.0, 2.0
"""Seconds without a sign of life until an actor is given up; seconds between two questions."""


class Keeper:
    """Keeps what is computed once for the whole cluster: baselines, inversions, by their keys.

    An async actor. The first who asks for a key makes it, and those who ask meanwhile wait.
    """

    def __init__(self) -> None:
        import asyncio

        self._made: dict[str, Any] = {}
        self._makers: dict[str, str] = {}
        self._changed = asyncio.Condition()
        self.num_made = 0

    async def take(self, name: str, worker: str) -> Any:
        """Return the reference of what was made, in a list; None tells the worker to make it."""
        async with self._changed:
            while name not in self._made:
                if self._makers.setdefault(name, worker) == worker:
                    return None
                await self._changed.wait()
            return [self._made[name]]

    async def put(self, name: str, data: bytes) -> None:
        """Keep what was made."""
        import ray

        async with self._changed:
            self._made[name] = ray.put(data)  # the keeper's own: it outlives the worker
            self.num_made += 1
            self._changed.notify_all()

    async def release(self, worker: str) -> None:
        """Let others make what a worker was to make: it failed, or is lost."""
        async with self._changed:
            self._makers = {n: w for n, w in self._makers.items() if w != worker or n in self._made}
            self._changed.notify_all()

    async def count(self) -> int:
        """Return how many were made."""
        return self.num_made


class Actor:
    """A worker in a process of Ray."""

    def __init__(self, name: str, threads: int, keeper: str) -> None:
        import ray

        self.worker, self.keeper = Worker(name, threads), ray.get_actor(keeper)

    def do(self, job: Job, number: int, item: Any) -> Outcome:
        """Do one item."""
        with shared(self._share):
            return self.worker.do(job, number, item)

    def beat(self) -> str:
        """Give a sign of life, while an item is being done, too."""
        return self.worker.name

    def _share(self, name: str, make: Callable[[], bytes]) -> bytes:
        import ray

        known = ray.get(self.keeper.take.remote(name, self.worker.name))
        if known is not None:
            return bytes(ray.get(known[0]))
        try:
            data = make()
        except BaseException:
            ray.get(self.keeper.release.remote(self.worker.name))
            raise
        ray.get(self.keeper.put.remote(name, data))
        return data


class _Held:
    """An actor with the item that it does."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name, self.actor = name, actor
        self.item: tuple[int, Any] | None = None
        self.ref: Any = None
        self.beat: Any = None
        self.asked = 0.0


class RayEngine:
    """Actors of a Ray cluster.

    Args:
        address: Of the head, ``auto`` for the cluster of this machine, or ``local`` to start one.
        num_workers: Actors; None is as many as the cluster has cards, or cores where none is used.
        threads: CPU threads of each, asked for as its cores.
        sources: Verbs with arguments, whose checkpoints say how much memory an actor asks for.
        placement: Of these checkpoints.
        patience: Seconds without a sign of life until an actor is given up.

    Raises:
        MissingExtraError: If Ray is not installed.
        ConfigError: If there is no cluster at the address.
    """

    def __init__(
        self,
        address: str,
        num_workers: int | None = None,
        *,
        threads: int = 1,
        sources: Sequence[tuple[str, Mapping[str, Any]]] = (),
        placement: Placement | None = None,
        patience: float = PATIENCE,
    ) -> None:
        check_whole("threads", threads, 1, 1024)
        ray = _connected(address)
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.resources = resources_of(sources, placement, threads, ray.cluster_resources())
        kind = "num_gpus" if "num_gpus" in self.resources else "num_cpus"
        total = ray.cluster_resources().get("GPU" if kind == "num_gpus" else "CPU", 1)
        most = max(1, int(total // self.resources[kind]))
        self.num_workers = most if num_workers is None else num_workers
        check_whole("workers", self.num_workers, 1, 100_000)
        self._ray, self._threads, self._patience = ray, threads, patience
        self._keeper_name = f"offbeat-{uuid.uuid4().hex}"
        # on the driver's own machine: if that is lost, so is the sweep
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._keeper = (
            ray.remote(Keeper)
            .options(name=self._keeper_name, num_cpus=0, scheduling_strategy=here)
            .remote()
        )
        self._kind = ray.remote(
            concurrency_groups={"beat": 1},
            max_restarts=-1,
            max_task_retries=1,
            **self.resources,
        )(Actor)
        self._actors: dict[str, _Held] = {}
        self._number = 0
        for _ in range(self.num_workers):
            self._start()

    def _start(self) -> None:
        name = f"actor {self._number}"
        self._number += 1
        held = _Held(name, self._kind.remote(name, self._threads, self._keeper_name))
        self._ask(held)
        self._actors[name] = held

    def run(self, job: Job, items: Iterable[Any]) -> Iterator[Outcome]:
        """Do items, and yield outcomes as they come: one item at an actor at a time."""
        from ray.util import ActorPool

        left, again, tries = enumerate(items), list[tuple[int, Any]](), dict[int, int]()
        pool, joined = ActorPool([]), set[str]()
        while True:
            self._admit(pool, joined)
            while self._has_free(pool):
                taken = again.pop() if again else next(left, None)
                if taken is None:
                    break
                pool.submit(lambda actor, item: self._given(actor, job, item), taken)
            if not any(held.item for held in self._actors.values()):
                if self._has_free(pool) and not again:
                    return
                self._wait_for_actor()
                continue
            outcome = self._next(pool)
            if outcome is not None and (held := self._actors.get(outcome.worker)) is not None:
                held.item = None
                yield outcome
            for held in [*self._dead(), *self._lost()]:
                assert held.item is not None
                number, item = held.item
                held.item = None
                self._ray.get(self._keeper.release.remote(held.name))
                tries[number] = tries.get(number, 0) + 1
                if tries[number] <= RETRIES:
                    again.append((number, item))
                else:
                    yield died(number, held.name, tries[number])

    def _admit(self, pool: Any, joined: set[str]) -> None:
        """Put actors into the pool that have started: their first sign of life came."""
        for name, held in self._actors.items():
            if name not in joined and self._has_beat(held):
                joined.add(name)
                pool.push(held.actor)

    def _has_free(self, pool: Any) -> bool:
        """Return whether an actor is free; those that were given up are dropped."""
        while (actor := pool.pop_idle()) is not None:
            if any(held.actor == actor for held in self._actors.values()):
                pool.push(actor)
                return True
        return False

    def _wait_for_actor(self) -> None:
        starting = [held.beat for held in self._actors.values() if held.beat is not None]
        if starting:
            self._ray.wait(starting, num_returns=1, timeout=BEAT)

    def _given(self, actor: Any, job: Job, taken: tuple[int, Any]) -> Any:
        (held,) = [held for held in self._actors.values() if held.actor == actor]
        held.item, held.ref = taken, actor.do.remote(job, *taken)
        return held.ref

    def _next(self, pool: Any) -> Outcome | None:
        """Return the next outcome; None if none comes for a while, or an actor died."""
        try:
            outcome: Outcome = pool.get_next_unordered(timeout=BEAT)
        except (TimeoutError, self._ray.exceptions.RayError):
            return None
        return outcome

    def _dead(self) -> list[_Held]:
        """Return actors that died at their item although Ray tried again, and replace them."""
        gone = []
        for held in list(self._actors.values()):
            if held.item is None or not self._ray.wait([held.ref], timeout=0)[0]:
                continue
            try:
                self._ray.get(held.ref)
            except self._ray.exceptions.RayError:
                gone.append(held)
                self._replace(held)
        return gone

    def _lost(self) -> list[_Held]:
        """Return actors at work that give no sign of life, and replace them."""
        lost = []
        for held in list(self._actors.values()):
            if held.beat is None or self._has_beat(held):
                self._ask(held)
            elif held.item is not None and time.monotonic() - held.asked > self._patience:
                self._replace(held)
                lost.append(held)
        return lost

    def _replace(self, held: _Held) -> None:
        self._ray.kill(held.actor)
        del self._actors[held.name]
        self._start()

    def _ask(self, held: _Held) -> None:
        if held.beat is None and time.monotonic() - held.asked > BEAT:
            held.asked = time.monotonic()
            held.beat = held.actor.beat.options(concurrency_group="beat").remote()

    def _has_beat(self, held: _Held) -> bool:
        """Return whether the last question was answered."""
        if held.beat is None:
            return True
        if not self._ray.wait([held.beat], timeout=0)[0]:
            return False
        try:
            self._ray.get(held.beat)
        except self._ray.exceptions.RayError:  # asked in the moment of its death
            held.asked = 0.0
        held.beat = None
        return True

    def num_kept(self) -> int:
        """Return how many results the cluster computed once for all."""
        return int(self._ray.get(self._keeper.count.remote()))

    def close(self) -> None:
        """End all actors, at once."""
        for held in self._actors.values():
            self._ray.kill(held.actor)
        self._actors.clear()
        self._ray.kill(self._keeper)


def resources_of(
    sources: Sequence[tuple[str, Mapping[str, Any]]],
    placement: Placement | None,
    threads: int,
    cluster: Mapping[str, float],
) -> dict[str, Any]:
    """Return what an actor asks of the cluster: cores, a card, memory by the checkpoints' headers.

    Args:
        sources: Verbs with arguments.
        placement: Of their checkpoints; None is the default.
        threads: Cores.
        cluster: What the cluster has.
    """
    where, memory, on_card = placement or Placement(), 0, False
    for verb, arguments in sources:
        source = source_of(verb, arguments)
        device = str(arguments.get("device", where.device))
        bundled = is_bundled(source) or not source
        wants = device.startswith("cuda") or (device == "auto" and not bundled)
        on_card |= wants and cluster.get("GPU", 0) >= 1
        try:
            resolved = where if wants and on_card else Placement(device="cpu", dtype=where.dtype)
            memory = max(memory, needed(survey(source), resolved).host)
        except (CheckpointError, UnknownNameError):  # not on this machine: it is not known
            continue
    needs: dict[str, Any] = {"num_cpus": threads}
    if on_card:
        needs["num_gpus"] = 1
    return needs | ({"memory": memory} if memory else {})


def check_address(address: str) -> None:
    """Raise if nobody answers at ``HOST:PORT``; Ray itself would try for minutes.

    Raises:
        OSError: If nobody does.
    """
    host, _, port = address.rpartition(":")
    if port.isdigit() and "//" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _connected(address: str) -> Any:
    """Return Ray, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("--ray", "ray") from error
    if ray.is_initialized():
        return ray
    try:
        check_address(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        sentence = " ".join(str(error).split())
        raise ConfigError(
            f"ray: no cluster at {address!r} ({sentence}); start one with `ray start --head`, or "
            "use --ray local for one on this machine"
        ) from error
    return ray
