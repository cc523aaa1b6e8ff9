"""From a name, folder or hub id to the components of a pipeline, without running pickles."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offbeat.backbones._hub import why
from offbeat.errors import CheckpointError, UnsafeWeightsError

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SAMPLED_FROM = 64 * 2**20  # larger files are fingerprinted by samples: 5 GB would take seconds
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class PipelineFolder:
    """A pipeline as ``save_pretrained`` writes it: ``model_index.json`` and component folders."""

    path: Path
    index: dict[str, Any]
    prefix: str = ""
    """What its components' names begin with: those of a combined pipeline's prior do."""

    @classmethod
    def open(cls, path: Path, *, prefix: str = "") -> PipelineFolder:
        """Read the folder's index.

        Raises:
            CheckpointError: If it holds no readable ``model_index.json``.
        """
        file = path / "model_index.json"
        try:
            index = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"{path}: expected a pipeline folder with model_index.json, as diffusers' "
                "save_pretrained writes it, and found none"
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: cannot be read as JSON ({error})") from error
        if not isinstance(index, dict):
            raise CheckpointError(f"{file}: expected a JSON object, got {type(index).__name__}")
        return cls(path, index, prefix)

    def where(self, name: str) -> Path:
        """Return the folder of a component."""
        return self.path / f"{self.prefix}{name}"

    def paths(self) -> list[Path]:
        """Return the folders of all components: what decides what is drawn."""
        return [self.where(name) for name in sorted(self.index) if self.has(name)]

    def has(self, name: str) -> bool:
        """Whether the pipeline has this component."""
        entry = self.index.get(f"{self.prefix}{name}")
        return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None

    def load(self, name: str, **kwargs: Any) -> Any:
        """Load one component with the class that the index names.

        Raises:
            CheckpointError: If the component is absent, damaged or of an unknown class.
            UnsafeWeightsError: If its weights are there only as a pickle.
        """
        if not self.has(name):
            raise CheckpointError(
                f"{self.path}: expected a component {self.prefix + name!r} in model_index.json"
            )
        library, class_name = self.index[f"{self.prefix}{name}"]
        folder = self.where(name)
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: named in model_index.json, and not there")
        refuse_pickles(folder)
        loader = _component_class(library, class_name)
        is_module = issubclass(loader, _module_class())
        if is_module:
            kwargs |= {"use_safetensors": True, "output_loading_info": True}
        try:
            with _quiet():
                loaded = loader.from_pretrained(folder, local_files_only=True, **kwargs)
        except Exception as error:  # the libraries raise many kinds; each means the same here
            raise CheckpointError(
                f"{folder}: cannot be loaded as {class_name} ({error})"
            ) from error
        return _complete(folder, *loaded) if is_module else loaded


def refuse_pickles(folder: Path) -> None:
    """Raise if the weights of ``folder`` are there only as a pickle.

    Raises:
        UnsafeWeightsError: With the file, and how to convert it.
    """
    if any(folder.glob("*.safetensors")):
        return
    for file in sorted(folder.iterdir()):
        if file.suffix in PICKLED:
            raise UnsafeWeightsError(
                f"{file}: pickled weights can run code when read, so they are refused. Load them "
                "once where you trust them and save with safe_serialization=True."
            )


def _complete(folder: Path, module: Any, info: dict[str, Any]) -> Any:
    """Return ``module`` if every weight came from the file: the libraries make up what is absent.

    Raises:
        CheckpointError: With the names that are missing or of another shape.
    """
    bad = [*info.get("missing_keys", ()), *(key[0] for key in info.get("mismatched_keys", ()))]
    if bad:
        raise CheckpointError(
            f"{folder}: expected a weight for every parameter, and {len(bad)} are missing or of "
            f"another shape, such as {sorted(bad)[0]}; the file is damaged or of another model"
        )
    return module


ALL_FILES = ("*.json", "*.txt", "*.safetensors", "*.model")


def locate(source: str | Path, *, only: tuple[str, ...] = ALL_FILES) -> Path:
    """Return the local folder of a folder or hub id, fetching the hub's files if need be.

    Args:
        source: Folder or hub id.
        only: Patterns of the files that are fetched.

    Raises:
        CheckpointError: If it is neither, or the hub cannot be reached.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists() or path.is_absolute() or str(source).startswith((".", "~")):
        raise CheckpointError(f"{source}: expected a checkpoint's folder, and it is not one")
    if str(source).count("/") != 1:
        raise CheckpointError(
            f"{source}: expected the name of a checkpoint, its folder, or a hub id OWNER/NAME"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=list(only)))
    except Exception as error:  # offline, absent, gated: each with its own class
        raise CheckpointError(
            f"{source}: no such folder, and the hub did not give it: {why(str(source), error)}"
        ) from error


def hub_state() -> tuple[bool, Path]:
    """Return whether the model hub is switched off, and the folder of what came from it."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE), Path(constants.HF_HUB_CACHE)


def fingerprint(*folders: Path, settings: str = "") -> str:
    """Return a digest of every weight and configuration file and of ``settings``, 16 hex digits.

    What is given may be a single file, too.

    Files over 64 MiB enter by their size and 16 evenly spaced blocks.
    """
    digest = hashlib.blake2b(settings.encode(), digest_size=8)
    for number, folder in enumerate(folders):
        found = [folder] if folder.is_file() else folder.rglob("*")
        files = (f for f in found if f.is_file() and f.suffix in _DIGESTED)
        for file in sorted(files, key=lambda f: f.relative_to(folder).as_posix()):
            size = file.stat().st_size
            digest.update(f"{number}/{file.relative_to(folder).as_posix()}:{size};".encode())
            with file.open("rb") as handle:
                if size <= _SAMPLED_FROM:
                    digest.update(handle.read())
                    continue
                for block in range(16):
                    handle.seek((size - _BLOCK) * block // 15, os.SEEK_SET)
                    digest.update(handle.read(_BLOCK))
    return digest.hexdigest()


_DIGESTED = {".json", ".safetensors", ".txt", ".model"}


def _component_class(library: str, class_name: str) -> Any:
    """Return a class that a pipeline may name; nothing else is ever imported."""
    import importlib

    modules = {
        "diffusers": "diffusers",
        "transformers": "transformers",
        "kandinsky": "diffusers.pipelines.kandinsky.text_encoder",
    }
    if library not in modules:
        raise CheckpointError(
            f"{class_name}: expected a component of {', '.join(modules)}, got one of {library!r}"
        )
    found = getattr(importlib.import_module(modules[library]), class_name, None)
    if found is None or not hasattr(found, "from_pretrained"):
        raise CheckpointError(f"{library} has no component class {class_name!r}")
    return found


def _module_class() -> type:
    import torch

    return torch.nn.Module


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' own progress bars off the screen, and put them back after."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Keep warnings of diffusers, not its errors, off the screen in this block."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
