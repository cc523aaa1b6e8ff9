"""Which form a checkpoint has: told by its index file, without loading torch or any weight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

Form = Literal["unclip", "stable-diffusion"]

INDEX = "model_index.json"


def form_of(source: str | Path) -> Form:
    """Return the form of a folder or hub id.

    A pipeline's own index makes it the Stable-Diffusion form, whose adapter says so if it is of
    another class; everything else is taken as a folder with ``prior/`` and ``decoder/``. What
    cannot be read is left to the adapter to report.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return "stable-diffusion" if (path / INDEX).is_file() else "unclip"
    if path.is_absolute() or str(source).startswith((".", "~")) or str(source).count("/") != 1:
        return "unclip"
    from huggingface_hub import hf_hub_download

    try:
        file = Path(hf_hub_download(str(source), INDEX))
        json.loads(file.read_text(encoding="utf-8"))
    except Exception:  # offline, absent, gated: loading it meets the same and says it
        return "unclip"
    return "stable-diffusion"
