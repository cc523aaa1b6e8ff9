"""The errors of Offbeat: what came, what was expected, what to do.

OffbeatError
 |- ConfigError            (ValueError)         a setting is out of its range
 |- ShapeError             (ValueError)         a tensor has another shape than agreed
 |- RangeError             (ValueError)         a number or tensor lies outside its range
 |- NotFiniteError         (ArithmeticError)    NaN or infinity where numbers are needed
 |- PromptError            (ValueError)         a subject or prompt that cannot be encoded
 |- VocabularyError        (ValueError)         words or weights that no concept can be made of
 |- ImageError             (ValueError)         a picture that cannot be read or is too large
 |- CapabilityError        (TypeError)          the backbone lacks what the method needs
 |- UnknownNameError       (LookupError)        no such method, backbone or judge
 |- DoesNotFitError        (MemoryError)        more memory is needed than there is
 |- MissingExtraError      (ImportError)        an optional dependency is absent
 |- CheckpointError        (OSError)            a folder that is no usable checkpoint
 |   '- UnsafeWeightsError                      pickled weights, which are never loaded
 |- JudgeError             (RuntimeError)       a judge that cannot be reached, or gave no answer
 |- FingerprintError       (ValueError)         made for another checkpoint
 '- StoreError             (OSError)            a run folder cannot be read or written
     |- BusyError                               another process works on it
     |- CorruptRunError                         it is there, and damaged
     '- ResumeError                             it belongs to other settings
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class OffbeatError(Exception):
    """Base of every error that Offbeat raises on purpose."""


class ConfigError(OffbeatError, ValueError):
    """A setting is out of its range or contradicts another."""


class ShapeError(OffbeatError, ValueError):
    """A tensor has another shape than agreed."""


class RangeError(OffbeatError, ValueError):
    """A number or tensor lies outside its range."""


class NotFiniteError(OffbeatError, ArithmeticError):
    """A tensor holds NaN or infinity."""


class PromptError(OffbeatError, ValueError):
    """A subject or prompt that the checkpoint cannot encode."""


class VocabularyError(OffbeatError, ValueError):
    """Concept words, or their weights, that cannot be used."""


class ImageError(OffbeatError, ValueError):
    """A picture that cannot be read, or is larger than is safe."""


class CapabilityError(OffbeatError, TypeError):
    """The backbone cannot do what the method needs."""

    def __init__(self, method: str, backbone: str, missing: str, have: Iterable[str]) -> None:
        super().__init__(
            f"{method} needs a backbone with `{missing}`, and {backbone} has none. "
            f"Backbones that have it: {', '.join(sorted(have)) or 'none installed'}. "
            "Choose one with --backbone NAME."
        )


class UnknownNameError(OffbeatError, LookupError):
    """No method, backbone or judge has this name."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(name, names, n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")


class DoesNotFitError(OffbeatError, MemoryError):
    """More memory is needed than there is, to load a checkpoint or by its work."""


class MissingExtraError(OffbeatError, ImportError):
    """An optional dependency is absent."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an extra: pip install 'offbeat[{extra}]'")


class CheckpointError(OffbeatError, OSError):
    """A name, folder or hub id that holds no usable checkpoint."""


class UnsafeWeightsError(CheckpointError):
    """Pickled weights, which can run code when they are read."""


class JudgeError(OffbeatError, RuntimeError):
    """A judge that cannot be reached, or whose answer says nothing."""


class FingerprintError(OffbeatError, ValueError):
    """Something learned on one checkpoint was given to another."""


class StoreError(OffbeatError, OSError):
    """A run folder cannot be read or written."""


class BusyError(StoreError):
    """Another process works on a run folder."""


class CorruptRunError(StoreError):
    """A run folder is there, and damaged."""


class ResumeError(StoreError):
    """A run folder belongs to other settings than those asked for."""
