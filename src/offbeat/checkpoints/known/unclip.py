"""Where unCLIP checkpoints are, and what their folders hold."""

from __future__ import annotations

from pathlib import Path

from offbeat.checkpoints.pipeline import PipelineFolder, locate
from offbeat.checkpoints.weights import PIPELINE_FILES
from offbeat.errors import CheckpointError

POCKET = Path(__file__).parents[2] / "pocket"
"""The checkpoint that comes with the package."""

SEPARATOR = "::"
"""Between the folders or hub ids of a prior and a decoder that lie apart: ``PRIOR::DECODER``."""
BUNDLED = ("pocket", "pocket-sd")

CHECKPOINTS: dict[str, tuple[str, str]] = {
    "pocket": (str(POCKET / "prior"), str(POCKET / "decoder")),
    "kandinsky-2.1": (
        "kandinsky-community/kandinsky-2-1-prior",
        "kandinsky-community/kandinsky-2-1",
    ),
    "kandinsky-2.2": (
        "kandinsky-community/kandinsky-2-2-prior",
        "kandinsky-community/kandinsky-2-2-decoder",
    ),
}
"""Name to where the prior and the decoder are: a folder or a hub id each."""


def is_bundled(source: str | Path) -> bool:
    """Return whether a checkpoint comes with the package: by its name, or by where it lies."""
    return str(source) in BUNDLED or Path(source).absolute().is_relative_to(POCKET)


def find(source: str | Path) -> tuple[PipelineFolder, PipelineFolder, Path]:
    """Return the pipelines of a checkpoint's prior and decoder, and the folder of its card.

    Raises:
        CheckpointError: If there is no such name or folder, or one half alone.
    """
    halves = CHECKPOINTS.get(str(source)) or _pair_of(str(source)) or _folders_of(str(source))
    if halves is not None:
        prior, decoder = (locate(half, only=PIPELINE_FILES) for half in halves)
        return PipelineFolder.open(prior), PipelineFolder.open(decoder), prior.parent
    folder = locate(source)
    if (folder / "model_index.json").is_file():
        whole = PipelineFolder.open(folder)
        if "Combined" in str(whole.index.get("_class_name")):
            return PipelineFolder.open(folder, prefix="prior_"), whole, folder
        raise CheckpointError(_half_alone(folder, source))
    where = (folder / "prior", folder / "decoder")
    if not all(part.is_dir() for part in where):
        raise CheckpointError(
            f"{source}: expected a pipeline folder of diffusers with its model_index.json, or one "
            "with prior/ and decoder/, each such a folder, as in the bundled checkpoint"
        )
    return PipelineFolder.open(where[0]), PipelineFolder.open(where[1]), folder


def _pair_of(hub_id: str) -> tuple[str, str] | None:
    """Return both halves of a published checkpoint of which one is named."""
    return next((pair for pair in CHECKPOINTS.values() if hub_id in pair), None)


def _folders_of(source: str) -> tuple[str, str] | None:
    """Return prior and decoder of ``PRIOR::DECODER``, or of folders side by side as published.

    Such are ``kandinsky-2-2-prior`` and ``kandinsky-2-2-decoder``, ``NAME-prior`` and ``NAME``.
    """
    prior, separator, decoder = source.partition(SEPARATOR)
    if separator:
        return prior, decoder
    folder = Path(source).expanduser()
    if (folder / "model_index.json").is_file():
        stem = folder.name.removesuffix("-decoder").removesuffix("-prior")
        names = [(f"{stem}-prior", f"{stem}-decoder"), (f"{stem}-prior", stem)]
        for pair in names:
            found = [folder.parent / name for name in pair]
            if folder in found and all((one / "model_index.json").is_file() for one in found):
                return str(found[0]), str(found[1])
    return None


def _half_alone(folder: Path, source: str | Path) -> str:
    """Say what to do with a folder that holds a prior alone, or a decoder alone."""
    half, other = ("prior", "decoder") if (folder / "prior").is_dir() else ("decoder", "prior")
    if all((folder.parent / name / "model_index.json").is_file() for name in (half, other)):
        return f"{source}: holds a {half} alone; name the folder above it, {folder.parent}"
    known = ", ".join(CHECKPOINTS)
    return (
        f"{source}: holds a {half} alone. Name both as PRIOR{SEPARATOR}DECODER, or put it into a "
        f"folder as {half}/, beside its {other} as {other}/, or name one of {known}"
    )
