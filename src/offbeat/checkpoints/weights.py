"""From a folder or hub id to weights that are safe and complete, whatever model they are of."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from offbeat.checkpoints.hub import snapshot, why
from offbeat.checkpoints.quantize import settings_for
from offbeat.checkpoints.trust import check_settings, refuse_broken, refuse_pickles
from offbeat.errors import CheckpointError, MissingExtraError

ALL_FILES = ("*.json", "*.txt", "*.safetensors", "*.model")
MODEL_FILES = (*ALL_FILES, "*.jinja")
SMALL_FILES = ("*.json", "*.txt")
PIPELINE_FILES = (
    "model_index.json",
    "card.json",
    "*/*.json",
    "*/*.txt",
    "*/*.model",
    "*/model.safetensors",
    "*/model-*-of-*.safetensors",
    "*/diffusion_pytorch_model.safetensors",
    "*/diffusion_pytorch_model-*-of-*.safetensors",
)
"""What is fetched of a published pipeline: such repositories hold every weight in several types."""
_WEIGHTS = re.compile(
    r"(?:model|diffusion_pytorch_model)(?:\.(?P<variant>[A-Za-z][\w-]*?))?"
    r"(?:-\d{5}-of-\d{5}(?:\.(?P<last>[A-Za-z][\w-]*))?)?"
    r"\.safetensors(?:\.index(?:\.(?P<index>[A-Za-z][\w-]*))?\.json)?"
)
"""Files of weights, whole or in pieces, and the index of the pieces; ``model.fp16.safetensors`` is
the variant ``fp16``, and so is ``model-00001-of-00002.fp16.safetensors``, as older folders say."""
_VARIANT: ContextVar[str] = ContextVar("variant", default="")
"""The variant that is asked for in this context; nothing asks for none."""
_DIGESTED = {".json", ".safetensors", ".txt", ".model"}
_SAMPLED_FROM = 64 * 2**20  # larger files are fingerprinted by samples: 15 GB would take a minute
_BLOCK = 2**20


def locate(
    source: str | Path, *, only: tuple[str, ...] = ALL_FILES, what: str = "a checkpoint"
) -> Path:
    """Return the local folder of a folder or hub id, fetching the hub's files if need be.

    Args:
        source: Folder or hub id.
        only: Patterns of the files that are fetched.
        what: What is wanted, for errors.

    Raises:
        CheckpointError: If it is neither, or the hub cannot be reached.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists() or path.is_absolute() or str(source).startswith((".", "~")):
        raise CheckpointError(f"{source}: expected the folder of {what}, and it is not one")
    if str(source).count("/") != 1:
        raise CheckpointError(
            f"{source}: expected the name of {what}, its folder, or a hub id OWNER/NAME"
        )
    try:
        return _fetched(str(source), only)
    except Exception as error:  # offline, absent, gated: each with its own class
        raise CheckpointError(
            f"{source}: no such folder, and the hub did not give it: {why(str(source), error)}"
        ) from error


@contextmanager
def reading_variant(name: str | None) -> Iterator[None]:
    """Read weights of a variant, e.g. ``fp16``, in this block; what lacks it is read without.

    Args:
        name: None reads the plain weights, or the only variant that there is.
    """
    token = _VARIANT.set(name or "")
    try:
        yield
    finally:
        _VARIANT.reset(token)


def check_variant(folder: Path) -> None:
    """Refuse a pipeline's folder that has no weights of the variant that is asked for.

    Raises:
        CheckpointError: With the variants that there are.
    """
    if not (wanted := _VARIANT.get()):
        return
    there = {name for place in sorted(folder.glob("*/")) for name in _variants(place)}
    if wanted not in there:
        known = ", ".join(sorted(name or "plain weights" for name in there)) or "no weights"
        raise CheckpointError(
            f"{folder}: expected weights of the variant {wanted!r}, and found {known}; leave "
            "--variant out, or name another"
        )


def refuse_variant(file: Path) -> None:
    """Refuse a variant of a single file, which holds one set of weights.

    Raises:
        CheckpointError: If a variant is asked for.
    """
    if wanted := _VARIANT.get():
        raise CheckpointError(
            f"{file}: a single file has no variants, and {wanted!r} is asked for; leave --variant "
            "out"
        )


def _fetched(hub_id: str, only: tuple[str, ...]) -> Path:
    """Return the folder of a repository; of a variant, plain weights only where it has none."""
    wanted = _VARIANT.get()
    plain = [pattern for pattern in only if _WEIGHTS.fullmatch(_sample_of(pattern))]
    if not wanted or not plain:
        return snapshot(hub_id, only)
    others = [pattern for pattern in only if pattern not in plain]
    variants = [pattern.replace(".safetensors", f"{end}.safetensors") for pattern in plain
                for end in (f".{wanted}", f".{wanted}-*-of-*")]  # fmt: skip
    folder = snapshot(hub_id, (*others, *variants))
    models = sorted(file.parent for file in folder.rglob("config.json"))
    lacking = [place for place in models if not _variants(place)]
    rest = {
        f"{place.relative_to(folder).as_posix()}/{pattern.rpartition('/')[2]}".removeprefix("./")
        for place in lacking
        for pattern in plain
    }
    return snapshot(hub_id, (*others, *variants, *sorted(rest))) if rest else folder


def _sample_of(pattern: str) -> str:
    """Return a file's name that a pattern of pieces, or of a whole, would match."""
    return pattern.rpartition("/")[2].replace("*", "00001")


def model_folder(source: str | Path) -> Path:
    """Return the local folder of a model that is no pipeline: see ``locate``."""
    return locate(source, only=MODEL_FILES, what="a model")


def json_object(file: Path, *, expected: str) -> dict[str, Any]:
    """Return what a settings file says.

    Args:
        file: Where.
        expected: What its folder was to be, for errors.

    Raises:
        CheckpointError: If it is not there, or damaged.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{file.parent}: expected {expected} with {file.name}, as save_pretrained writes it, "
            "and found none"
        ) from None
    except RecursionError:
        raise CheckpointError(f"{file}: expected settings, got JSON nested too deep") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: expected a JSON object, got {type(values).__name__}")
    return values


def model_config(folder: Path) -> dict[str, Any]:
    """Return ``config.json`` of a model's folder.

    Raises:
        CheckpointError: If it is not there, or damaged.
    """
    return json_object(folder / "config.json", expected="a model's folder")


def load_model(loader: Any, folder: Path, **settings: Any) -> Any:
    """Load a model of transformers or diffusers, in evaluation mode and frozen.

    Args:
        loader: Its class.
        folder: Where ``save_pretrained`` wrote it; weights are read from safetensors only.
        **settings: As ``from_pretrained`` takes them, such as ``dtype``.

    Raises:
        CheckpointError: If it is damaged, a weight is NaN or infinite, or one is absent or of
            another shape: the libraries make up what is absent.
        UnsafeWeightsError: If its weights are there only as a pickle.
    """
    refuse_pickles(folder)
    variant, _ = weight_files(folder)
    if variant:
        settings["variant"] = variant
    fewer_bits = settings_for(loader, settings.get("dtype"))
    model, info = load_part(
        loader, folder, use_safetensors=True, output_loading_info=True, **settings, **fewer_bits
    )
    bad = [*info.get("missing_keys", ()), *(key[0] for key in info.get("mismatched_keys", ()))]
    if bad:
        raise CheckpointError(
            f"{folder}: expected a weight for every parameter of {loader.__name__}, and {len(bad)} "
            f"are missing or of another shape, such as {sorted(bad)[0]}; the file is damaged or of "
            "another model"
        )
    if not fewer_bits:  # packed weights are no plain numbers
        refuse_broken(model, folder)
    return model.eval().requires_grad_(False)


def load_part(loader: Any, folder: Path, **settings: Any) -> Any:
    """Return what ``loader.from_pretrained`` makes of a folder: a tokenizer, a scheduler, a model.

    Raises:
        CheckpointError: If it cannot be loaded, or its settings name code to be run.
        MissingExtraError: If it is a SentencePiece file, and the package is not installed.
    """
    from diffusers import ConfigMixin

    check_settings(folder)
    if not issubclass(loader, ConfigMixin):  # transformers asks on stdin where this is not said
        settings["trust_remote_code"] = False
    try:
        with _quiet():
            return loader.from_pretrained(folder, local_files_only=True, **settings)
    except Exception as error:  # the libraries raise many kinds; each means the same here
        if "sentencepiece" in str(error).lower():
            raise MissingExtraError(f"{folder}: its tokenizer", "tokenizers") from error
        raise CheckpointError(
            f"{folder}: cannot be loaded as {loader.__name__} ({error})"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the libraries report of loading off the screen: what matters is told as errors."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def weight_files(folder: Path) -> tuple[str, list[Path]]:
    """Return which variant of a model's weights is read, and its files; ``""`` is the plain one.

    The variant that is asked for is read if it is there, then the plain weights, else the only
    variant that there is.

    Raises:
        CheckpointError: If there are several variants, no plain weights, and none is asked for.
    """
    variants = _variants(folder)
    if (wanted := _VARIANT.get()) in variants:
        return wanted, variants[wanted]
    if "" in variants or not variants:
        return "", variants.get("", [])
    if len(variants) > 1:
        raise CheckpointError(
            f"{folder}: expected weights without a variant, or of one, got {', '.join(variants)}; "
            "name one of them with --variant"
        )
    ((variant, files),) = variants.items()
    return variant, files


def _variants(folder: Path) -> dict[str, list[Path]]:
    """Return the files of weights of each variant; ``""`` is the plain one."""
    variants: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.safetensors*")):
        if (match := _WEIGHTS.fullmatch(file.name)) is not None:
            name = match["variant"] or match["last"] or match["index"] or ""
            variants.setdefault(name, []).append(file)
    return variants


def _is_read(file: Path, place: Path, chosen: dict[Path, list[Path]]) -> bool:
    """Return whether a file decides what is drawn: no other variant, and nothing that is hidden."""
    if any(part.startswith(".") for part in file.relative_to(place).parts):
        return False
    if ".safetensors" not in file.name:
        return True
    if _WEIGHTS.fullmatch(file.name) is None:  # beside an index stands the same in one file
        return not (file.parent / "model_index.json").is_file()
    if file.parent not in chosen:
        chosen[file.parent] = weight_files(file.parent)[1]
    return file in chosen[file.parent]


def fingerprint(*places: Path, settings: str = "", size: int = 8) -> str:
    """Return a digest of every weight and settings file, and of ``settings``, in hexadecimal.

    Files over 64 MiB enter by their size and 16 evenly spaced blocks. Hidden files, and weights of
    a variant that is not read, do not enter.

    Args:
        places: Folders, or single files.
        settings: What else decides.
        size: Bytes of the digest.
    """
    digest = hashlib.blake2b(settings.encode(), digest_size=size)
    for number, place in enumerate(places):
        candidates = [place] if place.is_file() else place.rglob("*")
        files = (f for f in candidates if f.is_file() and f.suffix in _DIGESTED)
        if place.is_dir():
            chosen: dict[Path, list[Path]] = {}
            files = (f for f in files if _is_read(f, place, chosen))
        for file in sorted(files, key=lambda f: f.relative_to(place).as_posix()):
            length = file.stat().st_size
            digest.update(f"{number}/{file.relative_to(place).as_posix()}:{length};".encode())
            with file.open("rb") as handle:
                if length <= _SAMPLED_FROM:
                    digest.update(handle.read())
                    continue
                for block in range(16):
                    handle.seek((length - _BLOCK) * block // 15, os.SEEK_SET)
                    digest.update(handle.read(_BLOCK))
    return digest.hexdigest()
