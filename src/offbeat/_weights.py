"""Models that are no backbones: from a folder or hub id to weights that are safe and complete."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from offbeat.errors import CheckpointError, MissingExtraError, UnsafeWeightsError

_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_READ = {".json", ".safetensors", ".txt", ".model", ".jinja"}
_SAMPLED_FROM = 64 * 2**20  # larger files are fingerprinted by samples: 15 GB would take a minute
_BLOCK = 2**20


def model_folder(source: str | Path) -> Path:
    """Return the local folder of a folder or hub id, fetching the hub's files if need be.

    Raises:
        CheckpointError: If it is neither, or the hub cannot be reached.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists() or path.is_absolute() or str(source).startswith((".", "~")):
        raise CheckpointError(f"{source}: expected a model's folder, and it is not one")
    if str(source).count("/") != 1:
        raise CheckpointError(f"{source}: expected a model's folder, or a hub id OWNER/NAME")
    from huggingface_hub import snapshot_download

    try:
        patterns = [f"*{suffix}" for suffix in sorted(_READ)]
        return Path(snapshot_download(str(source), allow_patterns=patterns))
    except Exception as error:  # offline, absent, gated: each with its own class
        raise CheckpointError(
            f"{source}: no such folder, and the hub did not give it ({type(error).__name__}: "
            f"{error})"
        ) from error


def model_config(folder: Path) -> dict[str, Any]:
    """Return ``config.json`` of a model's folder.

    Raises:
        CheckpointError: If it is not there, or damaged.
    """
    file = folder / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder}: expected a model's folder with config.json, as save_pretrained writes it, "
            "and found none"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: expected a JSON object, got {type(found).__name__}")
    return found


def load_model(loader: Any, folder: Path, **settings: Any) -> Any:
    """Load a model of transformers, in evaluation mode and frozen.

    Args:
        loader: Its class.
        folder: Where ``save_pretrained`` wrote it; weights are read from safetensors only.
        **settings: As ``from_pretrained`` takes them, such as ``dtype``.

    Raises:
        CheckpointError: If it is damaged, or a weight is absent or of another shape.
        UnsafeWeightsError: If its weights are there only as a pickle.
    """
    refuse_pickles(folder)
    model, info = load_part(
        loader, folder, use_safetensors=True, output_loading_info=True, **settings
    )
    bad = [*info.get("missing_keys", ()), *(key[0] for key in info.get("mismatched_keys", ()))]
    if bad:
        raise CheckpointError(
            f"{folder}: expected a weight for every parameter of {loader.__name__}, and {len(bad)} "
            f"are missing or of another shape, such as {sorted(bad)[0]}; the file is damaged or of "
            "another model"
        )
    return model.eval().requires_grad_(False)


def load_part(loader: Any, folder: Path, **settings: Any) -> Any:
    """Return what ``loader.from_pretrained`` makes of a folder: a tokenizer, a processor, a model.

    Raises:
        CheckpointError: If it cannot be loaded.
        MissingExtraError: If it is a SentencePiece file, and the package is not installed.
    """
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it reports what load_model tells better
    try:
        return loader.from_pretrained(folder, local_files_only=True, **settings)
    except Exception as error:  # the library raises many kinds; each means the same here
        if "sentencepiece" in str(error).lower():
            raise MissingExtraError(f"{folder}: its tokenizer", "tokenizers") from error
        raise CheckpointError(
            f"{folder}: cannot be loaded as {loader.__name__} ({error})"
        ) from error
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def refuse_pickles(folder: Path) -> None:
    """Raise unless a folder has weights in safetensors.

    Raises:
        CheckpointError: If it has no weights.
        UnsafeWeightsError: If it has pickled ones alone.
    """
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file for file in folder.iterdir() if file.suffix in _PICKLED)
    if pickled:
        raise UnsafeWeightsError(
            f"{pickled[0]}: pickled weights can run code when read, so they are refused. Load them "
            "once where you trust them and save with safe_serialization=True."
        )
    raise CheckpointError(f"{folder}: expected weights in *.safetensors, and found none")


def fingerprint(folder: Path) -> str:
    """Return a digest of every file that is read, 8 hex digits.

    Files over 64 MiB enter by their size and 16 evenly spaced blocks.
    """
    digest = hashlib.blake2b(digest_size=4)
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and f.suffix in _READ):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()}:{size};".encode())
        with file.open("rb") as handle:
            if size <= _SAMPLED_FROM:
                digest.update(handle.read())
                continue
            for block in range(16):
                handle.seek((size - _BLOCK) * block // 15, os.SEEK_SET)
                digest.update(handle.read(_BLOCK))
    return digest.hexdigest()
