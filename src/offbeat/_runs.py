"""What a command made, and what every command needs: loaded checkpoints, finished folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbeat import formats, registry
from offbeat._disk import json_bytes
from offbeat._pictures_out import PRIORS
from offbeat.errors import CapabilityError, StoreError
from offbeat.protocols import PriorBackbone, TextBackbone
from offbeat.store import RunFolder
from offbeat.types import Concept

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a command made: pictures, the concept behind them, and how it was found."""

    request: Mapping[str, Any]
    concept: Concept
    images: list[Image.Image]
    """Unusual pictures."""
    ordinary: list[Image.Image]
    """Ordinary ones of the same noise; none after ``render``."""
    summary: Mapping[str, Any]
    """What was reached: JSON values, as in ``summary.json``."""
    trace: list[dict[str, Any]]
    """One row a step."""
    files: Mapping[str, bytes] = field(repr=False)
    """The run folder's content."""
    folder: Path | None = None
    """Where it was written; None until ``save``."""

    def save(self, folder: str | Path) -> Path:
        """Write the run folder; returns its path.

        Raises:
            StoreError: If the folder holds something already, or cannot be written.
        """
        run = RunFolder.create(Path(folder), self.request)
        for row in self.trace:
            run.append_trace(row)
        run.write(self.files)
        run.finish()
        return Path(folder)


def load_backbone(source: str | Path = "pocket", *, device: str = "cpu") -> Any:
    """Load a checkpoint by name, folder or hub id.

    Returns:
        What the adapter of its form offers: see ``offbeat.protocols``.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is damaged.
        UnknownNameError: If the name is none.
    """
    return registry.find("backbone", str(source)).load(source, device=device)


def load_run(folder: str | Path) -> Run:
    """Read a finished run folder.

    Raises:
        StoreError: If there is none, or it is not finished.
        CorruptRunError: If it is damaged.
    """
    run = RunFolder.open(Path(folder))
    if not run.is_finished:
        raise StoreError(f"{folder}: the run is not finished; go on with it with --resume")
    run.verify()
    concept, _ = formats.decode_concept(lambda name: run.read(name) if run.exists(name) else None)
    names = [name for name in run.names() if not name.startswith("trials/")]
    return Run(
        request=run.request,
        concept=concept,
        images=_pictures(run, names, "images/"),
        ordinary=_pictures(run, names, "ordinary/"),
        summary=run.read_json("summary.json"),
        trace=run.trace(),
        files={name: run.read(name) for name in names},
        folder=Path(folder),
    )


def kept(
    request: Mapping[str, Any],
    concept: Concept,
    pictures: list[Image.Image],
    files: Mapping[str, bytes],
    folder: RunFolder | None,
) -> Run:
    """Write what was drawn if there is a folder, and return it."""
    summary = {"prompt": request["prompt"]}
    files = {**files, "summary.json": json_bytes(summary)}
    if folder is not None:
        folder.write(files)
        folder.finish()
    return Run(
        request=request,
        concept=concept,
        images=pictures,
        ordinary=[],
        summary=summary,
        trace=[],
        files=files,
        folder=folder.path if folder is not None else None,
    )


def loaded(backbone: str | Path | TextBackbone, device: str) -> TextBackbone:
    """Return a backbone that is loaded: of any form that draws from text."""
    if isinstance(backbone, str | Path):
        found: TextBackbone = load_backbone(backbone, device=device)
        return found
    return backbone


def loaded_prior(backbone: str | Path | PriorBackbone, device: str) -> PriorBackbone:
    """Return a backbone that is loaded and has a prior to search in.

    Raises:
        CapabilityError: If it lacks a part.
    """
    found: Any = backbone
    if isinstance(backbone, str | Path):
        found = load_backbone(backbone, device=device)
    if not isinstance(found, PriorBackbone):
        name = str(getattr(found, "name", type(found).__name__))
        raise CapabilityError("low-probability", name, _missing(found), PRIORS)
    return found


def _missing(backbone: object) -> str:
    """Return the first thing that the search needs and the backbone lacks."""
    needed = ("encode_text", "sample_prior", "init_lora", "decode_embeds", "encode_image")
    return next((name for name in needed if not hasattr(backbone, name)), "card")


def _pictures(run: RunFolder, names: Sequence[str], under: str) -> list[Image.Image]:
    import io

    from PIL import Image

    found = [name for name in names if name.startswith(under) and name.endswith(".png")]
    return [Image.open(io.BytesIO(run.read(name))).convert("RGB") for name in found]
