"""Disk cache for expensive results, keyed by all their inputs."""

from __future__ import annotations

import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

from offbeat.errors import StoreError
from offbeat.files.disk import (
    TEMP_PREFIX,
    digest_of,
    make_folder,
    pack_tensors,
    plain,
    unpack_tensors,
    write_atomic,
)

STALE_SECONDS = 24 * 60 * 60
"""A file still being written after this belongs to a killed process."""


def cache_folder() -> Path:
    """Return the cache: ``OFFBEAT_CACHE``, else offbeat in ``XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        StoreError: If neither is set and the user has no home folder.
    """
    try:
        if folder := os.environ.get("OFFBEAT_CACHE"):
            return Path(folder).expanduser()
        shared = os.environ.get("XDG_CACHE_HOME")
        return (Path(shared) if shared else Path.home() / ".cache") / "offbeat"
    except RuntimeError as error:
        raise StoreError(f"no folder for the cache ({error}): set OFFBEAT_CACHE to one") from error


Share = Callable[[str, Callable[[], bytes]], bytes]
"""Given a name and what makes its bytes: returns them, made here or by another process."""
_SHARE: ContextVar[Share | None] = ContextVar("share", default=None)


@contextmanager
def shared(share: Share) -> Iterator[None]:
    """Let what a block computes for the cache be shared with machines that have another one."""
    token = _SHARE.set(share)
    try:
        yield
    finally:
        _SHARE.reset(token)


def cached(
    kind: str,
    key: Mapping[str, Any],
    build: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what ``build`` returns, from the cache where it is there.

    A damaged entry is computed again. A cache that cannot be written is not used. Both give a
    warning.

    Args:
        kind: A folder of the cache, e.g. ``baselines``.
        key: Everything that the result depends on, as JSON values.
        build: Makes the tensors and their JSON metadata.
    """
    try:
        folder = cache_folder() / kind
    except StoreError as error:
        warnings.warn(f"the cache is not used: {error}", stacklevel=2)
        return _opened(_made(key, build), key)
    path = folder / f"{digest_of(json.dumps(key, sort_keys=True).encode())}.safetensors"
    if path.exists() and (entry := _read(path, key)) is not None:
        return entry
    with _alone(path):  # another process may be computing it just now
        if path.exists() and (entry := _read(path, key)) is not None:
            return entry
        share = _SHARE.get()
        made = partial(_made, key, build)
        data = made() if share is None else share(f"{kind}/{path.stem}", made)
        try:
            make_folder(folder)
            write_atomic(path, data)
        except StoreError as error:
            warnings.warn(f"the cache is not used: {error}", stacklevel=2)
        _sweep(folder)
    return _opened(data, key)  # the same values, cached or not


def _read(path: Path, key: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return an entry, or None if it is not there; one that is damaged is removed."""
    try:
        return _opened(path.read_bytes(), key)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(
            f"cache entry {path} is damaged, and is computed again: {error}", stacklevel=3
        )
        with suppress(OSError):
            path.unlink()
        return None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes of this machine from computing the same entry in this block.

    The lock is freed when its process ends, however it ends. Where there are no locks, there
    is none.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"offbeat-locks-{user}"
    lock = FileLock(folder / f"{digest_of(str(path.absolute()).encode())}.lock")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _made(
    key: Mapping[str, Any],
    build: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]],
) -> bytes:
    tensors, metadata = build()
    return pack_tensors(tensors, {"key": plain(key), "metadata": plain(metadata)})


def _opened(data: bytes, key: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, entry = unpack_tensors(data)
    if entry["key"] != plain(key):
        raise ValueError("it belongs to another key")
    return tensors, entry["metadata"]


def _sweep(folder: Path) -> None:
    """Remove what killed processes left; other processes may be writing, so only what is old."""
    for temp in folder.glob(f"{TEMP_PREFIX}*.tmp"):
        with suppress(OSError):
            if time.time() - temp.stat().st_mtime > STALE_SECONDS:
                temp.unlink()
