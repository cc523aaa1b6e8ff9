"""Which form a checkpoint has: told by its index file, without loading torch or any weight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from offbeat.checkpoints.hub import one_file

Form = Literal[
    "unclip",
    "stable-diffusion",
    "one-step",
    "sd3",
    "flux",
    "chroma",
    "z-image",
    "qwen-image",
    "sana",
]

INDEX = "model_index.json"
STARTS: tuple[tuple[str, Form], ...] = (
    ("StableDiffusion3", "sd3"),
    ("Flux", "flux"),
    ("Chroma", "chroma"),
    ("ZImage", "z-image"),
    ("QwenImage", "qwen-image"),
    ("Sana", "sana"),
    ("Kandinsky", "unclip"),
)
"""How the class of a pipeline begins, and its form; any other is the Stable-Diffusion form."""


def form_of(source: str | Path) -> Form:
    """Return the form of a folder or hub id.

    A pipeline's own index names its class; the adapter says so if it is one that it does not know.
    That a model draws in one step, ``"form": "one-step"`` in the folder's ``card.json`` says.
    A folder without index is taken as one with ``prior/`` and ``decoder/``. What cannot be read is
    left to the adapter to report.
    """
    path = Path(source).expanduser()
    if path.is_file() or path.suffix == ".safetensors":
        return _form_of_file(path)
    if path.is_dir():
        file = path / INDEX
        if not file.is_file():
            return "unclip"
        form = _named_in(file)
        return "one-step" if form == "stable-diffusion" and _is_one_step(path) else form
    if path.is_absolute() or str(source).startswith((".", "~")) or str(source).count("/") != 1:
        return "unclip"
    try:
        file = one_file(str(source), INDEX)
    except Exception:  # offline, absent, gated: loading it meets the same and says it
        return "unclip"
    return _named_in(file)


KEYS: tuple[tuple[str, Form], ...] = (("joint_blocks.0.", "sd3"), ("double_blocks.0.", "flux"))
"""What names of weights in a single file hold; those of a U-Net hold neither."""


def _form_of_file(file: Path) -> Form:
    """Return the form of a single file, by the names in the header of its safetensors."""
    try:
        with file.open("rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            names = handle.read(min(size, 2**24)).decode("utf-8", "replace")
    except OSError:
        return "stable-diffusion"
    return next((form for key, form in KEYS if key in names), "stable-diffusion")


def _is_one_step(folder: Path) -> bool:
    """Return whether a folder's card says that its model draws in one step."""
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(card, dict) and card.get("form") == "one-step"


def _named_in(file: Path) -> Form:
    """Return the form of the pipeline class that an index names."""
    try:
        name = str(json.loads(file.read_text(encoding="utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "stable-diffusion"
    return next((form for start, form in STARTS if name.startswith(start)), "stable-diffusion")
