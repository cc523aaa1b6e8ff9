"""One large run on several workers: samples and pictures are shared out, to the same bytes.

What does not need each other is shared: the parts of the baseline, the pictures of calibration,
candidates and directions. Directions follow one another, for each keeps away from those before it,
and so do the steps of a search: these stay with the driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.checkpoints.open import loaded
from offbeat.checkpoints.placement import Where
from offbeat.core.budget import counted
from offbeat.core.parts import Arguments, sharing
from offbeat.errors import OffbeatError
from offbeat.scale.worker import Engine, Worker


@dataclass(frozen=True)
class Call:
    """The job: one call of a function of a checkpoint."""

    source: str | Path
    device: Where
    name: str

    def __call__(self, worker: Worker, arguments: Arguments) -> tuple[Tensor, dict[str, int]]:
        """Return its value, and what it asked of the networks."""
        backbone = loaded(self.source, self.device)
        with torch.no_grad(), counted(backbone) as spent:
            value = getattr(backbone, self.name)(**arguments).cpu()
        return value, {} if spent is None else asdict(spent)


@contextmanager
def split(source: str | Path, engine: Engine, *, device: Where = "auto") -> Iterator[None]:
    """Share what a command of the block draws out to workers.

    Args:
        source: The checkpoint that the command is given, by name or folder.
        engine: Workers, with as many CPU threads as the driver, if bytes are to be the same.
        device: Where they run.
    """

    def share(backbone: Any, name: str, arguments: Iterable[Arguments]) -> Iterator[Tensor]:
        ready: dict[int, Tensor] = {}
        at = 0
        for outcome in engine.run(Call(source, device, name), arguments):
            if outcome.error:
                raise OffbeatError(f"{outcome.worker}, {name}: {outcome.error}")
            ready[outcome.number], spent = outcome.value
            if hasattr(backbone, "_asked"):  # what workers asked counts, too
                backbone._asked(**spent)
            while at in ready:
                yield ready.pop(at)
                at += 1

    with sharing(share):
        yield
