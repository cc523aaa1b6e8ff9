"""Draw the pictures of a design that names a verb instead of files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from offbeat.errors import ConfigError
from offbeat.verbs.explore import explore
from offbeat.verbs.fuse import fuse
from offbeat.verbs.generate import generate

VERBS: Mapping[str, Callable[..., Any]] = {
    "explore": explore,
    "fuse": fuse,
    "generate": generate,
}


def draw(verb: str, arguments: Mapping[str, Any], folder: Path) -> None:
    """Run a verb with its arguments into a folder, which is left alone if it is finished.

    Raises:
        ConfigError: If the verb is unknown, or its arguments are.
    """
    if verb not in VERBS:
        raise ConfigError(f"conditions: expected one of {', '.join(VERBS)}, got {verb!r}")
    if (folder / "images").is_dir():
        return
    try:
        VERBS[verb](**arguments, out=folder)
    except TypeError as error:
        raise ConfigError(f"conditions: {verb}: {error}") from error
