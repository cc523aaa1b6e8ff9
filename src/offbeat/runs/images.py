"""Turn pictures into files that hold their recipe; shared by every command that draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbeat.files.concept import CONCEPT_FILE, concept_of
from offbeat.files.disk import digest_of
from offbeat.files.exchange import stem_of
from offbeat.files.png import encode_png
from offbeat.protocols import TextBackbone
from offbeat.runs.sheet import contact_sheet, png_of
from offbeat.types import Concept

if TYPE_CHECKING:
    from PIL import Image


MAX_EMBEDDED = 2**16
"""Bytes of a concept that each of its pictures keeps inside: tokens fit, LoRA factors do not."""

GIVEN, BY_METHOD = {"by": "nobody"}, {"by": "method"}
"""How a picture was made that ``draw`` did not draw: it was given, or a method drew it."""


def png_files(
    folder: str,
    pictures: Sequence[Image.Image],
    request: Mapping[str, Any],
    concept: Concept,
    backbone: TextBackbone,
    *,
    seed: int | None = None,
    start: int = 0,
    drawing: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """Return the files of pictures, numbered from ``start``, each with the recipe to draw it.

    Args:
        folder: Of the files.
        pictures: All that were drawn together.
        request: What was asked.
        concept: What was drawn.
        backbone: By whom.
        seed: Of the noise; None is the request's.
        start: The first's number.
        drawing: What else ``draw`` was told, or ``GIVEN``, or ``BY_METHOD``.
    """
    learned = bool(concept.token_embeds or concept.lora or concept.image_embeds is not None)
    word = f"<{stem_of(concept.subject)}>" if learned else concept.word
    recipe = {
        **request,
        "prompt": concept.template.replace("{concept}", word),
        "request": dict(request),
        "seed": request["seed"] if seed is None else seed,
        **{
            name: request.get(name, backbone.card[name])
            for name in ("num_inference_steps", "guidance_scale")
        },
        "method": concept.metadata.get("method", "ordinary"),
        "scheduler": backbone.card.get("scheduler"),
        "novelty": _dial(request) if learned else None,
        "version": request["versions"].get("offbeat"),
    }
    how = {"by": "draw", "num": len(pictures), "purpose": "image", **(drawing or {})}
    inside = None
    if how["by"] == "draw":
        files = concept_of(concept, backbone)
        how["concept"] = digest_of(b"".join(files[name] for name in sorted(files)))
        small = len(files) == 1 and len(files[CONCEPT_FILE]) <= MAX_EMBEDDED
        inside = files[CONCEPT_FILE] if small else None
    return {
        f"{folder}/{start + index:04d}.png": encode_png(
            picture,
            {**recipe, "index": index, "drawing": {**how, "start": start}},
            concept=inside,
        )
        for index, picture in enumerate(pictures)
    }


MAX_SOURCE = 2**25
"""Bytes of a given picture that a run folder keeps a copy of."""


def source_files(files: Sequence[Path]) -> dict[str, Callable[[], bytes | None]]:
    """Return what copies the pictures that a run was given: they are needed to draw it again."""
    names = (f"sources/{number:04d}{file.suffix.lower()}" for number, file in enumerate(files))
    return {name: partial(_copied, file) for name, file in zip(names, files, strict=True)}


def _copied(file: Path) -> bytes | None:
    """Return the content of a file; None if it is too large to keep a copy."""
    return file.read_bytes() if file.stat().st_size <= MAX_SOURCE else None


def _dial(request: Mapping[str, Any]) -> str | None:
    """Return the requested distance as one word, e.g. ``2x``."""
    config = request.get("config") or {}
    for name, unit in (("reach", "x"), ("quantile", ""), ("novelty", "")):
        if config.get(name) is not None:
            return f"{config[name]:g}{unit}"
    return None


def sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    *,
    title: str,
    captions: Sequence[str] = (),
    note: str = "",
    columns: int = 8,
) -> bytes:
    """Return a contact sheet as PNG."""
    picture = contact_sheet(rows, title=title, captions=captions, note=note, max_columns=columns)
    return png_of(picture)
