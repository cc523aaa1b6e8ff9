"""Load the components of a flow model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from offbeat.checkpoints.known.cards import drawing_settings, read_card
from offbeat.checkpoints.known.flow import CHECKPOINTS, FILES, TEXTS, defaults
from offbeat.checkpoints.pipeline import PipelineFolder, fingerprint
from offbeat.checkpoints.single_file import open_pipeline
from offbeat.errors import CheckpointError


def load(
    source: str | Path, pipeline: str, dtype: torch.dtype, config: str | Path | None = None
) -> dict[str, Any]:
    """Return what an adapter of this form is made of: parts, name, digest and card.

    Args:
        source: Name, folder, hub id or single file.
        pipeline: The class that its index must name.
        dtype: Of the weights.
        config: Folder or hub id with what a single file lacks.

    Raises:
        CheckpointError: If there is none, it is damaged, or its pipeline is of another form.
    """
    folder = open_pipeline(CHECKPOINTS.get(str(source), source), only=FILES, config=config)
    kind = folder.index.get("_class_name")
    if kind != pipeline:
        raise CheckpointError(f"{source}: expected a pipeline of {pipeline}, got {kind}")
    parts = load_components(folder, TEXTS.get(pipeline), dtype)
    card = {**defaults(folder, parts), **read_card(folder.path)}
    digest = fingerprint(*folder.paths(), settings=drawing_settings(card))
    return {"parts": parts, "name": str(source), "digest": digest, "card": card}


def load_components(
    folder: PipelineFolder, clips: tuple[str, ...] | None, dtype: torch.dtype
) -> dict[str, Any]:
    """Return a pipeline's components; SD3 may lack T5, and without CLIP there is one encoder.

    Raises:
        CheckpointError: If one is absent or damaged, or the scheduler is no plain flow.
    """
    texts = [
        (folder.load(f"tokenizer{end}"), folder.load(f"text_encoder{end}", dtype=dtype))
        for end in clips or ("",)
    ]
    parts: dict[str, Any] = {
        "texts": texts,
        "transformer": folder.load("transformer", dtype=dtype),
        "vae": folder.load("vae", dtype=dtype),
        "scheduler": folder.load("scheduler"),
    }
    end = f"_{len(clips or ()) + 1}"
    if clips and (len(clips) == 1 or folder.has(f"text_encoder{end}")):
        parts["t5"] = (
            folder.load(f"tokenizer{end}"),
            folder.load(f"text_encoder{end}", dtype=dtype),
        )
    scheduler = type(parts["scheduler"]).__name__
    flows = parts["scheduler"].config.get("use_flow_sigmas") and clips is None
    if scheduler != "FlowMatchEulerDiscreteScheduler" and not flows:
        raise CheckpointError(
            f"{folder.path}: expected a FlowMatchEulerDiscreteScheduler, got {scheduler}; put the "
            "published scheduler_config.json in its place"
        )
    return parts


def shift_of(config: Mapping[str, Any], num_tokens: int, *, max_shift: float) -> float:
    """Return how far noise levels move up for so many image tokens: a line between two sizes."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    return float(low + (num_tokens - few) * (high - low) / (many - few))
