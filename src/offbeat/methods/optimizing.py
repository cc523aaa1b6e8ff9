"""Run a search or a training to its end, and keep its optimizer's state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import torch

from offbeat.types import OnStep, Step


class Resumable(Protocol):
    """A search or a training that takes one step at a time and can go on from a snapshot."""

    index: int
    """Steps that are done."""

    def advance(self) -> Step:
        """Take one step."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``Step.snapshot()``."""
        ...


Work = TypeVar("Work", bound=Resumable)


def run_to_end(
    work: Work, ended: Callable[[], bool], on_step: OnStep, resume: Mapping[str, Any] | None
) -> Work:
    """Return a search or a training after its last step.

    Args:
        work: New.
        ended: Whether the last step is done.
        on_step: Told each step.
        resume: State to go on from, a ``Step.snapshot()``.
    """
    if resume is not None:
        work.restore(resume)
    while not ended():
        on_step(work.advance())
    return work


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """Return a copy of an optimizer's moments, by the number of the parameter, as text."""
    state = optimizer.state_dict()["state"]
    return {str(i): {name: v.clone() for name, v in m.items()} for i, m in state.items()}


def restore_moments(optimizer: torch.optim.Optimizer, moments: Mapping[Any, Any]) -> None:
    """Give an optimizer the moments that ``moments_of`` returned."""
    state = optimizer.state_dict()
    state["state"] = {
        int(i): {name: value.clone() for name, value in m.items()} for i, m in moments.items()
    }
    optimizer.load_state_dict(state)
