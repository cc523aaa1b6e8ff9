"""What is mixed. What a method must offer is in ``methods.settings.Method``."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from torch import Tensor

Source: TypeAlias = "str | Tensor"
"""What is mixed: a word, or a picture, ``[3, H, W]``, 0 to 1."""

SourceKind: TypeAlias = Literal["word", "picture"]

Takes: TypeAlias = "tuple[tuple[SourceKind, ...], tuple[SourceKind, ...]]"
"""What the first of two sources may be, and the second."""

BEFORE = frozenset(
    {
        "DrawsSubject", "DreamsConcepts", "FitsConcept", "FusesConcepts", "InvertsArt",
        "MixesSources", "MorphsSources", "PaintsImages", "TrainsOnce",
    }
)  # fmt: skip
"""Protocols of before. A method declares its verbs now, so any class fulfils them."""


def __getattr__(name: str) -> Any:
    """Return what a protocol of before is now: see ``offbeat.protocols``."""
    if name in BEFORE:
        return object
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
