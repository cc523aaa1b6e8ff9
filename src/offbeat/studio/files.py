"""The files of a run that a browser may read, and their content types."""

from __future__ import annotations

import os
import re
from pathlib import Path

TYPES = {
    ".png": "image/png",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".safetensors": "application/octet-stream",
}
_PICTURE = r"(?:images|ordinary|sources)/[0-9]{4,6}\.png"
_STATE = r"trials/[0-9]{1,4}/states/[0-9]{1,6}/preview-[0-9]{4}\.png"
_WHERE = r"(?:concepts/[0-9]{4}/|trials/[0-9]{1,4}/states/[0-9]{1,6}/)?"
_CONCEPT = _WHERE + r"(?:concept|lora/pytorch_lora_weights)\.safetensors"
_TOP = (
    r"(?:contact|map|curve)\.png|report\.html|summary\.json|request\.json|trace\.jsonl"
    r"|baseline\.safetensors|[a-z]{1,20}\.(?:gif|mp4)"
)
ALLOWED = re.compile(f"(?:{_PICTURE}|{_STATE}|{_CONCEPT}|{_TOP})")
"""Names, not paths: no dot-dot, no backslash, no absolute path can match."""


def allowed_file(folder: Path, name: str) -> Path | None:
    """Return the path of a run's file; None if it is not allowed or absent."""
    if not ALLOWED.fullmatch(name):
        return None
    path = folder / name
    # a link inside a run folder could lead anywhere, and so could a run folder that is a link
    real = folder.parent.resolve() / folder.name
    return path if path.resolve().is_relative_to(real) and path.is_file() else None


def allowed_names(folder: Path) -> list[str]:
    """Return the files of a run that may be asked for, sorted.

    A running job removes folders of its own meanwhile; ``os.walk`` passes over what is gone.
    """
    names = (
        (Path(where) / name).relative_to(folder).as_posix()
        for where, _, files in os.walk(folder)
        for name in files
    )
    return sorted(name for name in names if ALLOWED.fullmatch(name))
