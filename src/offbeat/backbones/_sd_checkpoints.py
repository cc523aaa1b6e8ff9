"""Where Stable-Diffusion checkpoints are, what their folders hold, and what suits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from offbeat.backbones._checkpoints import POCKET, read_card
from offbeat.backbones._images import read_pixel_stats
from offbeat.backbones._ip_adapter import IpAdapter
from offbeat.backbones._loading import PipelineFolder
from offbeat.backbones._single_file import open_pipeline
from offbeat.errors import CheckpointError
from offbeat.templates import PAPER_TEMPLATE

CHECKPOINTS: dict[str, str] = {
    "pocket-sd": str(POCKET / "stable_diffusion"),
    "sd-1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
"""Name to where the pipeline is: a folder or a hub id."""

PIPELINES: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"guidance_scale": 7.5},
    "StableDiffusionImg2ImgPipeline": {"guidance_scale": 7.5},
    "LatentConsistencyModelPipeline": {"guidance_scale": 8.5, "num_inference_steps": 4},
    "StableDiffusionXLPipeline": {"guidance_scale": 5.0},
    "StableDiffusionXLImg2ImgPipeline": {"guidance_scale": 5.0},
}
"""The pipelines of this form, and what each is run with if its folder brings no ``card.json``."""

DEFAULT_CARD: dict[str, Any] = {
    "prompt_template": PAPER_TEMPLATE,
    "num_inference_steps": 50,
    "ip_adapter_scale": 1.0,
    "decode_batch_size": 4,
    "concepts": {},
    "subjects": {},
}
FROM_PARENT = ("prompt_template", "concepts", "subjects", "judge")
"""What a pipeline inside an unCLIP checkpoint's folder takes from the card there."""

FILES = (
    "model_index.json",
    "*/*.json",
    "*/*.txt",
    "*/model.safetensors",
    "*/model-*-of-*.safetensors",
    "*/diffusion_pytorch_model.safetensors",
    "*/diffusion_pytorch_model-*-of-*.safetensors",
    "ip_adapter/*.safetensors",
)
"""What is fetched from the hub: such repositories hold every weight in several types."""

ADAPTER = Path("ip_adapter") / "ip_adapter.safetensors"


def find(source: str | Path, config: str | Path | None = None) -> PipelineFolder:
    """Return the pipeline of a name, folder, hub id or single file with its ``config``.

    Raises:
        CheckpointError: If there is none, or its pipeline is of another form.
    """
    folder = open_pipeline(CHECKPOINTS.get(str(source), source), only=FILES, config=config)
    kind = folder.index.get("_class_name")
    if kind not in PIPELINES:
        raise CheckpointError(
            f"{source}: expected a pipeline of {', '.join(PIPELINES)}, got {kind}"
        )
    return folder


def read_cards(folder: PipelineFolder) -> dict[str, Any]:
    """Return what ``card.json`` of a pipeline says, and of the checkpoint that it is a part of."""
    parent = folder.path.parent
    around = read_card(parent) if (parent / "prior").is_dir() else {}
    return {
        **{name: around[name] for name in FROM_PARENT if name in around},
        **read_card(folder.path),
    }


def defaults(folder: PipelineFolder, unet: Any, factor: int) -> dict[str, Any]:
    """Return the settings of a checkpoint that says nothing of itself."""
    side = unet.config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    return {
        **DEFAULT_CARD,
        **PIPELINES[folder.index["_class_name"]],
        "height": height * factor,
        "width": width * factor,
        "scheduler": folder.index["scheduler"][1],
    }


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
    if getattr(vae.config, "force_upcast", False):  # in half precision it overflows
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


CLIP_PIXELS = (
    [0.48145466, 0.4578275, 0.40821073],
    [0.26862954, 0.26130258, 0.27577711],
)
"""Mean and spread of the pixels that CLIP was trained on, as every published encoder has them."""


def digested(folder: PipelineFolder, file: str | Path | None) -> list[Path]:
    """Return the folders, and the file of a given IP-Adapter, that decide what is drawn."""
    used = [path for path in folder.paths() if path.name != "safety_checker"]
    adapter = folder.path / "ip_adapter" if file is None else Path(file)
    return [*used, *([adapter] if adapter.exists() else [])]
