"""Where SD3 and FLUX checkpoints are, what their folders hold, and what suits them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from offbeat.backbones._checkpoints import drawing_settings, read_card
from offbeat.backbones._conditions import cell_of
from offbeat.backbones._flow import PATCH
from offbeat.backbones._loading import PipelineFolder, fingerprint
from offbeat.backbones._single_file import open_pipeline
from offbeat.errors import CheckpointError
from offbeat.templates import PAPER_TEMPLATE

CHECKPOINTS: dict[str, str] = {
    "sd3": "stabilityai/stable-diffusion-3-medium-diffusers",
    "sd3.5": "stabilityai/stable-diffusion-3.5-medium",
    "flux": "black-forest-labs/FLUX.1-dev",
    "flux-schnell": "black-forest-labs/FLUX.1-schnell",
}
"""Name to hub id."""

DEFAULT_CARD: dict[str, Any] = {
    "prompt_template": PAPER_TEMPLATE,
    "num_inference_steps": 28,
    "decode_batch_size": 4,
    "concepts": {},
    "subjects": {},
}
SUITED: dict[str, dict[str, Any]] = {
    "sd3": {"guidance_scale": 7.0, "max_sequence_length": 256},
    "sd3.5": {"guidance_scale": 4.5, "num_inference_steps": 40, "max_sequence_length": 256},
    "flux": {"guidance_scale": 3.5, "max_sequence_length": 512, "true_guidance_scale": 4.0},
    "flux-schnell": {
        "guidance_scale": 0.0,
        "num_inference_steps": 4,
        "max_sequence_length": 256,
        "true_guidance_scale": 4.0,
    },
}
"""What suits each kind, by the publishers; ``card.json`` in a folder goes before it."""

TEXTS = {"StableDiffusion3Pipeline": ("", "_2"), "FluxPipeline": ("",)}
"""The CLIP encoders of each pipeline; T5 is the next one."""

FILES = (
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
"""What is fetched from the hub: such repositories hold every weight in several types."""


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
    parts = load_components(folder, TEXTS[pipeline], dtype)
    card = {**defaults(folder, parts), **read_card(folder.path)}
    digest = fingerprint(*folder.paths(), settings=drawing_settings(card))
    return {"parts": parts, "name": str(source), "digest": digest, "card": card}


def load_components(
    folder: PipelineFolder, clips: tuple[str, ...], dtype: torch.dtype
) -> dict[str, Any]:
    """Return a pipeline's components; SD3 may lack T5.

    Raises:
        CheckpointError: If one is absent or damaged, or the scheduler is no plain flow.
    """
    texts = [
        (folder.load(f"tokenizer{end}"), folder.load(f"text_encoder{end}", dtype=dtype))
        for end in clips
    ]
    parts: dict[str, Any] = {
        "texts": texts,
        "transformer": folder.load("transformer", dtype=dtype),
        "vae": folder.load("vae", dtype=dtype),
        "scheduler": folder.load("scheduler"),
    }
    end = f"_{len(clips) + 1}"
    if len(clips) == 1 or folder.has(f"text_encoder{end}"):
        parts["t5"] = (
            folder.load(f"tokenizer{end}"),
            folder.load(f"text_encoder{end}", dtype=dtype),
        )
    scheduler = type(parts["scheduler"]).__name__
    if scheduler != "FlowMatchEulerDiscreteScheduler":
        raise CheckpointError(
            f"{folder.path}: expected a FlowMatchEulerDiscreteScheduler, got {scheduler}; put the "
            "published scheduler_config.json in its place"
        )
    return parts


def defaults(folder: PipelineFolder, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint that says nothing of itself."""
    config = parts["transformer"].config
    if folder.index["_class_name"] == "FluxPipeline":
        kind, side = "flux" if config.guidance_embeds else "flux-schnell", 128
    else:  # SD3.5 normalises queries and keys, SD3 does not
        kind, side = "sd3.5" if config.get("qk_norm") else "sd3", int(config.sample_size)
    pixels = side // PATCH * PATCH * cell_of(parts["vae"])
    return {
        **DEFAULT_CARD,
        **SUITED[kind],
        "height": pixels,
        "width": pixels,
        "scheduler": folder.index["scheduler"][1],
    }


def shift_of(config: Mapping[str, Any], num_tokens: int, *, max_shift: float) -> float:
    """Return how far noise levels move up for so many image tokens: a line between two sizes."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    return float(low + (num_tokens - few) * (high - low) / (many - few))
