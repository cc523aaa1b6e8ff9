"""A pipeline of diffusers that the user built, as the parts that an adapter is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from offbeat.checkpoints.pipeline import PipelineFolder
from offbeat.errors import CheckpointError

_SAMPLED = 1 << 16
"""Numbers of each weight that enter a digest, evenly spaced."""


def is_pipeline(thing: object) -> bool:
    """Return whether something is a pipeline of diffusers; nothing is imported to tell."""
    return any(kind.__name__ == "DiffusionPipeline" for kind in type(thing).__mro__)


def index_of(pipe: Any) -> PipelineFolder:
    """Return what the index of a pipeline's folder would say."""
    parts = {
        name: [type(part).__module__.partition(".")[0], type(part).__name__]
        for name, part in pipe.components.items()
        if part is not None
    }
    settings = {
        name: value for name, value in pipe.config.items() if isinstance(value, bool | int | float)
    }
    where = str(pipe.config.get("_name_or_path") or type(pipe).__name__)
    return PipelineFolder(Path(where), {"_class_name": type(pipe).__name__, **settings, **parts})


def texts_of(pipe: Any, numbers: Iterable[str]) -> list[tuple[Any, Any]]:
    """Return tokenizers and text encoders of a pipeline, those that it has."""
    return [
        (pipe.components[f"tokenizer{n}"], pipe.components[f"text_encoder{n}"])
        for n in numbers
        if pipe.components.get(f"text_encoder{n}") is not None
    ]


def digest_of_pipe(pipe: Any, settings: str) -> str:
    """Return a digest of a pipeline's weights and settings, in hexadecimal.

    It is another than that of the folder that the pipeline was loaded from: a pipeline may have
    been changed since.

    Raises:
        CheckpointError: If weights are not there to be read, as offloaded ones.
    """
    digest = hashlib.blake2b(settings.encode(), digest_size=8)
    for name, part in sorted(pipe.components.items()):
        if not isinstance(part, torch.nn.Module):
            digest.update(f"{name}:{type(part).__name__};".encode())
            if hasattr(part, "config"):
                digest.update(repr(sorted((k, str(v)) for k, v in part.config.items())).encode())
            continue
        for key, weight in sorted(part.state_dict().items()):
            if weight.device.type == "meta":
                raise CheckpointError(
                    f"{name}: its weights are not there to be read; pass the pipeline before it "
                    "is offloaded, and offload by --offload"
                )
            flat = weight.detach().flatten()
            step = max(1, len(flat) // _SAMPLED)
            values = flat[::step].float().cpu().numpy()
            digest.update(f"{name}.{key}:{tuple(weight.shape)};".encode() + values.tobytes())
    return digest.hexdigest()
