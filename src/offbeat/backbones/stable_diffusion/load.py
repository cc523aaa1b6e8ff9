"""Load the components of a Stable-Diffusion checkpoint, and its IP-Adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from offbeat.backbones.images import read_pixel_stats
from offbeat.backbones.stable_diffusion.ip_adapter import IpAdapter
from offbeat.checkpoints.known.stable_diffusion import ADAPTER
from offbeat.checkpoints.pipeline import PipelineFolder, locate
from offbeat.checkpoints.trust import refuse_broken
from offbeat.checkpoints.weights import json_object
from offbeat.errors import CheckpointError, UnsafeWeightsError

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


PUBLISHED = {False: "models/ip-adapter_sd15", True: "sdxl_models/ip-adapter_sdxl"}
"""Where ``h94/IP-Adapter`` has its plain adapters, by whether the U-Net is that of SDXL."""


def load_named_adapter(source: str, unet: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Return an IP-Adapter and the encoder of its pictures, as they are published.

    Args:
        source: The adapter's file; a folder that holds one, such as a copy of ``h94/IP-Adapter`` or
            its ``models/``; or a hub id.
        unet: What it speaks to.
        dtype: Of the encoder's weights.

    Raises:
        CheckpointError: If there is none, it is damaged, or no encoder of its width lies with it.
        UnsafeWeightsError: If it is a pickle.
    """
    path = Path(source).expanduser()
    name = PUBLISHED[unet.config.addition_embed_type == "text_time"]
    if not path.exists():
        encoder = f"{name.partition('/')[0]}/image_encoder"
        only = tuple(f"{encoder}/{part}" for part in ("config.json", "model.safetensors"))
        path = locate(source, only=(f"{name}.safetensors", *only), what="an IP-Adapter")
    file = path if path.is_file() else _adapter_in(path, name)
    if file.suffix != ".safetensors":
        raise UnsafeWeightsError(
            f"{file}: is a pickle, which can run code when it is read; take the .safetensors of "
            "the same name"
        )
    adapter = IpAdapter(unet, file)
    # the encoder lies beside its adapter, or in the other folder of the published repository
    widths = []
    for place in (file.parent, file.parent.parent / "models", file.parent.parent):
        config = place / "image_encoder" / "config.json"
        if not config.is_file():
            continue
        width = json_object(config, expected="an image encoder").get("projection_dim")
        if width == adapter.width:
            return {"adapter": adapter, **_image_encoder(place, dtype)}
        widths.append(f"{config.parent} is {width} wide")
    raise CheckpointError(
        f"{file}: expected its encoder of pictures, {adapter.width} wide, as image_encoder/ beside "
        f"it, and found {'; '.join(widths) or 'none'}"
    )


def _adapter_in(folder: Path, name: str) -> Path:
    """Return the plain adapter of a folder, for a U-Net whose published one is called ``name``."""
    names = [name, name.rpartition("/")[2], "ip_adapter/ip_adapter", "ip_adapter"]
    files = [folder / f"{one}.safetensors" for one in names]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        held = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors"))
        raise CheckpointError(
            f"{folder}: expected an IP-Adapter as {name}.safetensors or ip_adapter.safetensors, "
            f"got {', '.join(held[:8]) or 'no .safetensors'}; name the file itself"
        )
    return file


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
