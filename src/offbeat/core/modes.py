"""Run methods in fixed torch modes (gradients on, float32), whatever modes the caller has set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def own_modes() -> Iterator[None]:
    """Switch off what the caller may have switched on, and put it back after.

    That is ``no_grad`` and ``inference_mode``, autocast, and a default device. Checkpoints that are
    loaded and searches that run inside are the same as without them.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def in_own_modes(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that runs in ``own_modes``."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with own_modes():
            return function(*args, **kwargs)

    return call
