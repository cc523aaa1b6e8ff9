"""Draw the pictures of a design that names a verb instead of files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from offbeat.errors import ConfigError
from offbeat.runs.folder import RunFolder
from offbeat.verbs.explore import explore
from offbeat.verbs.fuse import fuse
from offbeat.verbs.generate import generate

VERBS: Mapping[str, Callable[..., Any]] = {
    "explore": explore,
    "fuse": fuse,
    "generate": generate,
}


def draw(verb: str, arguments: Mapping[str, Any], folder: Path) -> None:
    """Run a verb with its arguments into a folder; a finished run there is kept.

    One that was cut off is drawn anew.

    Raises:
        ConfigError: If the verb is unknown, or its arguments are.
    """
    if verb not in VERBS:
        raise ConfigError(f"conditions: expected one of {', '.join(VERBS)}, got {verb!r}")
    if folder.is_dir() and RunFolder.open(folder).is_finished:
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        VERBS[verb](**arguments, out=folder)
    except TypeError as error:
        raise ConfigError(f"conditions: {verb}: {error}") from error
