"""Where one-step models are, and what makes a model one."""

from __future__ import annotations

NAME = "hyper-sd"
BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
LORA = ("ByteDance/Hyper-SD", "Hyper-SD15-1step-lora.safetensors")
CLIP = "openai/clip-vit-large-patch14"
"""The model whose text tower SD 1.5 has."""
CLIP_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
