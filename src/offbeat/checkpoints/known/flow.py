"""Where SD3 and FLUX checkpoints are, what their folders hold, and what suits them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offbeat.checkpoints.known.cards import suited
from offbeat.checkpoints.pipeline import PipelineFolder, cell_of
from offbeat.checkpoints.weights import PIPELINE_FILES

PATCH = 2
"""Cells of the latents, a side, that these transformers read as one token."""


CHECKPOINTS: dict[str, str] = {
    "sd3": "stabilityai/stable-diffusion-3-medium-diffusers",
    "sd3.5": "stabilityai/stable-diffusion-3.5-medium",
    "flux": "black-forest-labs/FLUX.1-dev",
    "flux-schnell": "black-forest-labs/FLUX.1-schnell",
}
"""Name to hub id."""

TEXTS = {"StableDiffusion3Pipeline": ("", "_2"), "FluxPipeline": ("",)}
"""The CLIP encoders of each pipeline; T5 is the next one."""

FILES = PIPELINE_FILES


def defaults(folder: PipelineFolder, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint that says nothing of itself."""
    config = parts["transformer"].config
    if folder.index["_class_name"] == "FluxPipeline":
        kind, side = "flux" if config.guidance_embeds else "flux-schnell", 128
    else:  # SD3.5 normalises queries and keys, SD3 does not
        kind, side = "sd3.5" if config.get("qk_norm") else "sd3", int(config.sample_size)
    pixels = side // PATCH * PATCH * cell_of(parts["vae"].config)
    return {
        **suited(kind),
        "height": pixels,
        "width": pixels,
        "scheduler": folder.index["scheduler"][1],
    }
