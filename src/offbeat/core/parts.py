"""Calls of a backbone that do not need each other: made one after the other, or shared out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

Arguments = Mapping[str, Any]
Sharing = Callable[[Any, str, Iterable[Arguments]], Iterator[Tensor]]
"""Given a backbone, the name of one of its functions and the arguments of each call."""
_SHARING: ContextVar[Sharing | None] = ContextVar("sharing", default=None)


@contextmanager
def sharing(share: Sharing) -> Iterator[None]:
    """Let another make the calls of a block, with the same values in the same order."""
    token = _SHARING.set(share)
    try:
        yield
    finally:
        _SHARING.reset(token)


def is_shared() -> bool:
    """Return whether another makes the calls: then small ones are shared better."""
    return _SHARING.get() is not None


def calls(backbone: Any, name: str, arguments: Iterable[Arguments]) -> Iterator[Tensor]:
    """Yield what a function of a backbone returns for each, on the CPU, in order."""
    share = _SHARING.get()
    if share is not None:
        yield from share(backbone, name, arguments)
        return
    for one in arguments:
        yield getattr(backbone, name)(**one).cpu()
