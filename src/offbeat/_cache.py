"""The cache: what is slow to make and depends on nothing but its key."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from offbeat._disk import (
    digest_of,
    make_folder,
    pack_tensors,
    plain,
    unpack_tensors,
    write_atomic,
)
from offbeat.errors import StoreError


def cache_folder() -> Path:
    """Return the cache: ``OFFBEAT_CACHE``, else offbeat in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("OFFBEAT_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "offbeat"


def cached(
    kind: str,
    key: Mapping[str, Any],
    build: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what ``build`` returns, from the cache where it is there.

    A damaged entry is built anew and a cache that cannot be written is done without, each with a
    warning.

    Args:
        kind: A folder of the cache, e.g. ``baselines``.
        key: Everything that the result depends on, as JSON values.
        build: Makes the tensors and their JSON metadata.
    """
    name = digest_of(json.dumps(key, sort_keys=True).encode())
    path = cache_folder() / kind / f"{name}.safetensors"
    try:
        tensors, entry = unpack_tensors(path.read_bytes())
        if entry["key"] != plain(key):
            raise ValueError("it belongs to another key")
        return tensors, entry["metadata"]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"cache entry {path} is built anew: {error}", stacklevel=2)
    built, metadata = build()
    data = pack_tensors(built, {"key": plain(key), "metadata": plain(metadata)})
    try:
        make_folder(path.parent)
        write_atomic(path, data)
    except StoreError as error:
        warnings.warn(f"the cache is done without: {error}", stacklevel=2)
    tensors, entry = unpack_tensors(data)  # the same values, cached or not
    return tensors, entry["metadata"]
