"""Load the components of a Stable-Diffusion checkpoint, and its IP-Adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from offbeat.backbones.images import read_pixel_stats
from offbeat.backbones.stable_diffusion.ip_adapter import IpAdapter
from offbeat.checkpoints.known.stable_diffusion import ADAPTER
from offbeat.checkpoints.pipeline import PipelineFolder
from offbeat.checkpoints.trust import refuse_broken
from offbeat.checkpoints.weights import json_object
from offbeat.errors import CheckpointError

CLIP_PIXELS = (
    [0.48145466, 0.4578275, 0.40821073],
    [0.26862954, 0.26130258, 0.27577711],
)
"""Mean and spread of the pixels that CLIP was trained on, as every published encoder has them."""


def load_components(folder: PipelineFolder, dtype: torch.dtype) -> dict[str, Any]:
    """Return the pipeline's components; those that judge or crop pictures are not among them.

    Raises:
        CheckpointError: If one is absent, damaged or does not fit.
    """
    texts = [
        (folder.load(f"tokenizer{end}"), folder.load(f"text_encoder{end}", dtype=dtype))
        for end in ("", "_2")
        if folder.has(f"text_encoder{end}")
    ]
    if not texts:
        raise CheckpointError(f"{folder.path}: expected a component 'text_encoder'")
    vae = folder.load("vae", dtype=dtype)
    said = json_object(folder.where("vae") / "config.json", expected="an autoencoder")
    if said.get("force_upcast"):  # it overflows in half precision; the class itself assumes so
        vae = vae.float()
    unet = folder.load("unet", dtype=dtype)
    if unet.config.in_channels != vae.config.latent_channels:
        raise CheckpointError(
            f"{folder.path}: expected a U-Net that reads {vae.config.latent_channels} channels of "
            f"latents and nothing else, got {unet.config.in_channels}: is it for inpainting?"
        )
    return {
        "texts": texts,
        "vae": vae,
        "unet": unet,
        "scheduler": _corrected(folder),
        "zero_empty": bool(folder.index.get("force_zeros_for_empty_prompt", False)),
    }


def _corrected(folder: PipelineFolder) -> Any:
    """Return the scheduler as the pipeline would have it: it mends two old settings."""
    scheduler = folder.load("scheduler")
    if "XL" in folder.index["_class_name"]:
        return scheduler
    mended = {}
    if getattr(scheduler.config, "steps_offset", 1) != 1:
        mended["steps_offset"] = 1
    if getattr(scheduler.config, "clip_sample", False):
        mended["clip_sample"] = False
    return type(scheduler).from_config(scheduler.config, **mended) if mended else scheduler


def load_adapter(
    folder: PipelineFolder, unet: Any, file: str | Path | None, dtype: torch.dtype
) -> dict[str, Any]:
    """Return the IP-Adapter and the encoder of its pictures, each if there is one.

    Args:
        folder: The pipeline's; its own adapter is ``ip_adapter/ip_adapter.safetensors``.
        unet: What the adapter speaks to.
        file: Another adapter; its encoder is looked for in ``image_encoder/`` beside it.
        dtype: Of the encoder's weights.

    Raises:
        CheckpointError: If one is damaged, or ``file`` is none.
    """
    path = Path(file) if file is not None else folder.path / ADAPTER
    found: dict[str, Any] = {}
    if path.is_file():
        found["adapter"] = IpAdapter(unet, path)
    elif file is not None:
        raise CheckpointError(f"{file}: expected the file of an IP-Adapter, and there is none")
    for place in (folder.path, path.parent, folder.path.parent / "prior"):
        if (place / "image_encoder" / "config.json").is_file():
            found |= _image_encoder(place, dtype)
            break
    return found


def _image_encoder(place: Path, dtype: torch.dtype) -> dict[str, Any]:
    index = {"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}
    encoder = PipelineFolder(place, index).load("image_encoder", dtype=dtype)
    for name in ("feature_extractor", "image_processor"):
        if (place / name / "preprocessor_config.json").is_file():
            return {"image_encoder": encoder, "pixels": read_pixel_stats(place / name)}
    return {"image_encoder": encoder, "pixels": CLIP_PIXELS}


def projection_of(file: Path, dtype: torch.dtype) -> torch.nn.Linear:
    """Return CLIP's projection of pooled text from the file of a whole model.

    Raises:
        CheckpointError: If it is not in it.
    """
    from safetensors import safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            weight = tensors.get_tensor("text_projection.weight")
    except Exception as error:
        raise CheckpointError(
            f"{file}: expected a CLIP model with text_projection.weight ({error})"
        ) from error
    projection = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=dtype)
    with torch.no_grad():
        projection.weight.copy_(weight)
    refuse_broken(projection, file)
    return projection


def own_projection(
    folder: PipelineFolder, parts: dict[str, Any], dtype: torch.dtype
) -> torch.nn.Linear | None:
    """Return the projection of text into the image encoder's space; None if there is none.

    A pipeline loads its text encoder without it, where the file holds it nevertheless.
    """
    file = folder.where("text_encoder") / "model.safetensors"
    if "image_encoder" not in parts or len(parts["texts"]) != 1 or not file.is_file():
        return None
    config = parts["texts"][0][1].config
    width = int(parts["image_encoder"].config.projection_dim)
    if hasattr(parts["texts"][0][1], "text_projection"):
        return None  # its pooled vectors are projected already
    try:
        layer = projection_of(file, dtype)
    except CheckpointError:
        return None
    return layer if layer.weight.shape == (width, int(config.hidden_size)) else None
