"""Where one-step models are, what makes a model one, and what suits them."""

from __future__ import annotations

from typing import Any

NAME = "hyper-sd"
BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
LORA = ("ByteDance/Hyper-SD", "Hyper-SD15-1step-lora.safetensors")
CLIP = "openai/clip-vit-large-patch14"
"""The model whose text tower SD 1.5 has."""
CLIP_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")

ONE_STEP: dict[str, Any] = {
    "num_inference_steps": 1,
    "timesteps": [800],
    "guidance_scale": 0.0,
    "prior_num_inference_steps": 1,
    "prior_guidance_scale": 0.0,
    "explore_prior_num_inference_steps": 1,
}
"""How such a model is run, by its authors; ``card.json`` in a folder goes before it."""
