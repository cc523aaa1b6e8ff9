"""Load the components of an unCLIP checkpoint: its prior and its decoder."""

from __future__ import annotations

from typing import Any

import torch

from offbeat.backbones.images import read_pixel_stats
from offbeat.checkpoints.pipeline import PipelineFolder


def load_prior(folder: PipelineFolder, dtype: torch.dtype) -> dict[str, Any]:
    """Return the prior's components and its pixel settings."""
    modules = {
        name: folder.load(name, dtype=dtype) for name in ("text_encoder", "image_encoder", "prior")
    }
    return {
        **modules,
        "tokenizer": folder.load("tokenizer"),
        "scheduler": folder.load("scheduler"),
        "pixels": read_pixel_stats(folder.where("image_processor")),
    }


def load_decoder(folder: PipelineFolder, dtype: torch.dtype) -> dict[str, Any]:
    """Return the decoder's components, in 2.1 with its text encoder."""
    parts: dict[str, Any] = {
        "unet": folder.load("unet", dtype=dtype),
        "movq": folder.load("movq", dtype=dtype),
        "scheduler": folder.load("scheduler"),
    }
    if folder.has("text_encoder"):  # Kandinsky 2.1
        parts["text"] = (folder.load("tokenizer"), folder.load("text_encoder", dtype=dtype))
    return parts
