"""The model hub: what lies here already, what is fetched, and what its errors mean."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

README = "README.md"


def go_offline() -> None:
    """Let nothing touch the network in this process; what lies here already is found."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:  # it has read its settings already
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def on_disk(hub_id: str, patterns: Sequence[str]) -> Path | None:
    """Return the folder of what came from a repository before; None if nothing did."""
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(hub_id, allow_patterns=list(patterns), local_files_only=True)
    except Exception:  # absent, or a cache that is damaged: one class each
        return None
    return Path(found)


def why(hub_id: str, error: Exception) -> str:
    """Return what an error of the hub means, and what to do."""
    from huggingface_hub import constants, errors

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
