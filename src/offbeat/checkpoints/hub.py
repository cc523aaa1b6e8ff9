"""The model hub: what lies here already, what is fetched, and what its errors mean."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

README = "README.md"
_LOCAL: ContextVar[bool] = ContextVar("local", default=False)
"""Whether the hub may not be contacted in this context."""


def go_offline() -> None:
    """Let nothing touch the network in this process; what lies here already is found."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:  # it has read its settings already
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


@contextmanager
def without_network() -> Iterator[None]:
    """Contact no hub in this block; what was fetched before is read."""
    token = _LOCAL.set(True)
    try:
        yield
    finally:
        _LOCAL.reset(token)


def snapshot(hub_id: str, patterns: Sequence[str]) -> Path:
    """Return the folder of a repository, its files fetched unless the network is off.

    Raises:
        Exception: One class for each way in which the hub does not give it; see ``why``.
    """
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(hub_id, allow_patterns=list(patterns), local_files_only=_LOCAL.get())
    )


def one_file(hub_id: str, name: str) -> Path:
    """Return one file of a repository, fetched unless the network is off.

    Raises:
        Exception: As ``snapshot``.
    """
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(hub_id, name, local_files_only=_LOCAL.get()))


def on_disk(hub_id: str, patterns: Sequence[str]) -> Path | None:
    """Return the folder of what came from a repository before; None if nothing did."""
    with without_network():
        try:
            return snapshot(hub_id, patterns)
        except Exception:  # absent, or a cache that is damaged: one class each
            return None


def why(hub_id: str, error: Exception) -> str:
    """Return what an error of the hub means, and what to do."""
    from huggingface_hub import constants, errors

    if _LOCAL.get():
        return "it is not on this machine, and the network may not be used for it"
    if constants.HF_HUB_OFFLINE:
        return (
            "the hub is switched off (--offline or HF_HUB_OFFLINE), and not all of it lies here; "
            f"`offbeat models fetch {hub_id}` on a machine with a network, once"
        )
    if isinstance(error, errors.GatedRepoError):
        return (
            f"its owner asks for consent: give it at https://huggingface.co/{hub_id}, then run "
            "`hf auth login`"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private: look for a typing error"
    first = (str(error).strip().splitlines() or [""])[0]
    return f"the hub cannot be reached ({type(error).__name__}: {first}); is there a network?"


def licence_of(folder: Path) -> str | None:
    """Return the licence that the model card in a folder names; None where it names none."""
    from huggingface_hub.repocard import metadata_load

    try:
        told = metadata_load(folder / README) or {}
    except Exception:  # no card, or one without a readable beginning
        return None
    name = told.get("license_name") or told.get("license")
    return str(name) if name else None
