"""From a name, folder or hub id to the components of a pipeline, without running pickles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offbeat.checkpoints.trust import component_class
from offbeat.checkpoints.weights import (
    ALL_FILES,
    check_variant,
    fingerprint,
    json_object,
    load_model,
    load_part,
    locate,
)
from offbeat.errors import CheckpointError

SHARED = ("image_encoder", "text_encoder", "tokenizer")
"""What a pipeline beside a prior may leave out: it is stored once, in the prior's folder."""

__all__ = [
    "ALL_FILES",
    "PipelineFolder",
    "fingerprint",
    "hub_state",
    "locate",
    "quiet_diffusers",
]


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
            CheckpointError: If it holds no readable ``model_index.json``, or no weights of the
                variant that is asked for.
        """
        index = json_object(path / "model_index.json", expected="a pipeline folder")
        check_variant(path)
        return cls(path, index, prefix)

    def where(self, name: str) -> Path:
        """Return the folder of a component: its own, or the prior's that lies beside it."""
        place = self.path / f"{self.prefix}{name}"
        beside = self.path.absolute().parent / "prior" / name
        return beside if name in SHARED and not place.exists() and beside.is_dir() else place

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
        loader = component_class(name, library, class_name)
        load = load_model if issubclass(loader, _module_class()) else load_part
        return load(loader, folder, **kwargs)


def hub_state() -> tuple[bool, Path]:
    """Return whether the model hub is switched off, and the folder of what came from it."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE), Path(constants.HF_HUB_CACHE)


def _module_class() -> type:
    import torch

    return torch.nn.Module


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


def cell_of(config: Mapping[str, Any]) -> int:
    """Return how many pixels a cell of the latents is wide, by an autoencoder's settings."""
    if "temperal_downsample" in config:  # of the autoencoder of Qwen-Image
        return int(2 ** len(config["temperal_downsample"]))
    blocks = config.get("encoder_block_out_channels") or config.get("block_out_channels", "1234")
    return int(2 ** max(0, len(blocks) - 1))


def sides_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width of the latents that a denoiser was made for, by its settings.

    Raises:
        CheckpointError: If they are no two sides.
    """
    side = config.get("sample_size") or 64
    sides = [side, side] if isinstance(side, int) else side
    if not isinstance(sides, list | tuple) or [type(one) for one in sides] != [int, int]:
        raise CheckpointError(f"sample_size: expected a side or two, in cells, got {side!r}")
    return int(sides[0]), int(sides[1])
