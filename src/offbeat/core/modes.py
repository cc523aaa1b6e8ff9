"""Run methods in fixed torch modes (gradients on, float32), whatever modes the caller has set.

Where memory runs out in them, the error says what takes less.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import torch

from offbeat.errors import DoesNotFitError

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def own_modes() -> Iterator[None]:
    """Switch off what the caller may have switched on, and put it back after.

    That is ``no_grad`` and ``inference_mode``, autocast, and a default device. Checkpoints that are
    loaded and searches that run inside are the same as without them. Products of float32 on CUDA
    are taken in TF32.

    Raises:
        DoesNotFitError: If an accelerator's memory runs out, on the way there or back.
    """
    with ExitStack() as stack:
        stack.enter_context(_memory_explained())
        stack.enter_context(_tf32())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def _tf32() -> Iterator[None]:
    """Let CUDA take products of float32 matrices in TF32, as it takes convolutions anyway."""
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    if before != "tf32":
        products.allow_tf32 = True  # the older name sets both; torch.compile still reads it
    try:
        yield
    finally:
        if before != "tf32":
            products.allow_tf32 = False
            products.fp32_precision = before


@contextmanager
def _memory_explained() -> Iterator[None]:
    """Say what takes less where an accelerator's memory runs out."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        said = str(error).splitlines() or ["no more is free"]
        raise DoesNotFitError(
            f"memory ran out while this was computed: {said[0]} What takes less: --dtype bfloat16, "
            "--offload model, --vae-tiling for large pictures. A search or a training keeps every "
            "step for its gradient: --set gradient_steps=1, --set num_noises=1 or a smaller "
            "batch_size, where its method has these settings"
        ) from error


def in_own_modes(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that runs in ``own_modes``."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with own_modes():
            return function(*args, **kwargs)

    return call
