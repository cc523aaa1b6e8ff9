"""Where checkpoints of flow models are, what their folders hold, and what suits them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offbeat.checkpoints.known.cards import is_turbo, suited
from offbeat.checkpoints.pipeline import PipelineFolder, cell_of
from offbeat.checkpoints.weights import PIPELINE_FILES

PATCH = 2
"""Cells of the latents, a side, that these transformers read as one token."""


CHECKPOINTS: dict[str, str] = {
    "sd3": "stabilityai/stable-diffusion-3-medium-diffusers",
    "sd3.5": "stabilityai/stable-diffusion-3.5-medium",
    "flux": "black-forest-labs/FLUX.1-dev",
    "flux-schnell": "black-forest-labs/FLUX.1-schnell",
    "chroma": "lodestones/Chroma1-HD",
    "z-image": "Tongyi-MAI/Z-Image",
    "z-image-turbo": "Tongyi-MAI/Z-Image-Turbo",
    "qwen-image": "Qwen/Qwen-Image",
    "sana": "Efficient-Large-Model/Sana_1600M_1024px_diffusers",
}
"""Name to hub id."""

TEXTS = {"StableDiffusion3Pipeline": ("", "_2"), "FluxPipeline": ("",)}
"""The CLIP encoders of each pipeline; T5 is the next one. Any other has one encoder alone."""
LANGUAGE = {
    "ChromaPipeline": "chroma",
    "ZImagePipeline": "z-image",
    "QwenImagePipeline": "qwen-image",
    "SanaPipeline": "sana",
}
"""The pipelines whose text one language model reads, and their forms."""
FORMS = ("sd3", "flux", *LANGUAGE.values())
"""The forms of checkpoint that are flow models."""

FILES = PIPELINE_FILES


def defaults(folder: PipelineFolder, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint that says nothing of itself."""
    config = parts["transformer"].config
    pipeline = str(folder.index["_class_name"])
    if pipeline in LANGUAGE:
        kind, side = LANGUAGE[pipeline], 128
        if kind == "z-image" and is_turbo(folder.path):
            kind = "z-image-turbo"
        if kind == "sana":
            side = int(config.sample_size)
    elif pipeline == "FluxPipeline":
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
