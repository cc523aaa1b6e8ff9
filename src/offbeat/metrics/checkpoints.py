"""Load weights under their published names, and prepare pictures for image processors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.checkpoints.trust import refuse_broken, refuse_pickles
from offbeat.checkpoints.weights import SMALL_FILES, locate, model_folder
from offbeat.errors import CheckpointError


def weights_folder(source: str | Path) -> Path:
    """Return the local folder of a folder or hub id, with weights in safetensors.

    Raises:
        CheckpointError: If it is neither, or has no weights.
        UnsafeWeightsError: If the weights are there only as a pickle.
    """
    folder = model_folder(source)
    refuse_pickles(folder)
    return folder


def small_files(source: str | Path, what: str) -> Path:
    """Return the local folder of a folder or hub id whose weights are not wanted.

    Args:
        source: Folder or hub id.
        what: What is wanted of it, for the error.

    Raises:
        CheckpointError: If there is no such folder, and the hub does not give it.
    """
    try:
        return locate(source, only=SMALL_FILES, what=what)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; or put its small files beside the weights") from error


def short_name(source: str | Path) -> str:
    """Return the last part of a folder or hub id.

    >>> short_name("openai/clip-vit-large-patch14")
    'clip-vit-large-patch14'
    """
    return Path(str(source).rstrip("/\\")).name or str(source)


def names_of(folder: Path) -> set[str]:
    """Return the names of a folder's tensors, from the heads of its files alone."""
    from safetensors import safe_open

    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, "pt") as handle:
                names |= set(handle.keys())
        except Exception as error:  # safetensors has its own kinds
            raise CheckpointError(f"{file}: cannot be read as safetensors ({error})") from error
    return names


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of a folder's safetensors, by name, float32.

    Raises:
        CheckpointError: If a file is damaged.
    """
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            weights |= load_file(file)
        except Exception as error:  # safetensors has its own kinds
            raise CheckpointError(f"{file}: cannot be read as safetensors ({error})") from error
    return {name: tensor.float() for name, tensor in weights.items()}


def fill(
    module: Any, weights: dict[str, Tensor], where: Path, *, unused: Iterable[str] = ()
) -> None:
    """Put weights into a module; every parameter must get one, and every weight must be used.

    Args:
        module: Any ``torch.nn.Module``; it is frozen, and set to evaluation.
        weights: By the module's own names.
        where: They are from here: for errors.
        unused: Beginnings of published names that the module has no place for.

    Raises:
        CheckpointError: With the names that are missing, left over or of another shape.
    """
    unwanted = tuple(unused)
    known = {name: weight for name, weight in weights.items() if not name.startswith(unwanted)}
    try:
        missing, extra = module.load_state_dict(known, strict=False)
    except RuntimeError as error:  # torch's word for another shape
        first = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{where}: the weights are of another model: {first}") from error
    for names, fault in ((missing, "missing"), (extra, "left over")):
        if names:
            raise CheckpointError(
                f"{where}: expected the weights of this very model, and {len(names)} are {fault}, "
                f"such as {names[0]}"
            )
    refuse_broken(module, where)
    module.eval().requires_grad_(False)


def pixels_of(processor: Any, images: Sequence[Tensor]) -> Tensor:
    """Return what an image processor of transformers makes of pictures, ``[B, 3, h, w]``.

    Args:
        processor: One that works with Pillow, as the published programs do.
        images: ``[3, H, W]`` each, 0 to 1.
    """
    raw = [
        (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        for image in images
    ]
    # of a picture three pixels high it would guess which side the colours are on
    processed = processor(raw, return_tensors="pt", input_data_format="channels_last")
    pixels: Tensor = processed.pixel_values
    return pixels
