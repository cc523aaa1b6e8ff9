"""Workers by what a command is asked for: this machine's, or a cluster's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offbeat.checkpoints.placement import Placement
from offbeat.scale.local import LocalEngine
from offbeat.scale.ray import RayEngine
from offbeat.scale.worker import Engine


def open_engine(
    workers: int | None = None,
    *,
    threads: int = 1,
    ray: str | None = None,
    sources: Sequence[tuple[str, Mapping[str, Any]]] = (),
    placement: Placement | None = None,
) -> Engine:
    """Return processes of this machine, or actors of the Ray cluster at an address.

    Args:
        workers: How many; None is one a card or core.
        threads: CPU threads of each.
        ray: The address; None is this machine.
        sources: Verbs with arguments, whose checkpoints say what an actor needs.
        placement: Of these.
    """
    if ray is None:
        return LocalEngine(workers, threads=threads)
    return RayEngine(ray, workers, threads=threads, sources=sources, placement=placement)
