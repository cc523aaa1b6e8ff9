"""Where SD3 and FLUX checkpoints are, what their folders hold, and what suits them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offbeat.checkpoints.pipeline import PipelineFolder, cell_of
from offbeat.core.templates import PAPER_TEMPLATE

PATCH = 2
"""Cells of the latents, a side, that these transformers read as one token."""


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
