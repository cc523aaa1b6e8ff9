"""Load a one-step model: a Stable-Diffusion checkpoint with its distilled LoRA merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from offbeat.backbones.images import read_pixel_stats
from offbeat.backbones.stable_diffusion.load import (
    CLIP_PIXELS,
    load_adapter,
    load_components,
    projection_of,
)
from offbeat.checkpoints.known import stable_diffusion
from offbeat.checkpoints.known.cards import SUITED, drawing_settings
from offbeat.checkpoints.known.one_step import BASE, CLIP, CLIP_FILES, LORA, NAME
from offbeat.checkpoints.lora import fit, merge
from offbeat.checkpoints.pipeline import PipelineFolder, cell_of, fingerprint, locate
from offbeat.checkpoints.trust import refuse_broken
from offbeat.checkpoints.weights import load_model
from offbeat.errors import CheckpointError, OffbeatError
from offbeat.files.lora import read_lora_file


def load(
    source: str | Path,
    dtype: torch.dtype,
    *,
    ip_adapter: str | Path | None,
    config: str | Path | None,
    lora: str | Path | None,
    clip: str | Path | None,
) -> dict[str, Any]:
    """Return what the adapter is made of: parts, name, digest and card.

    Raises:
        CheckpointError: If a part is absent, damaged or does not fit.
    """
    is_named = str(source) == NAME
    folder = stable_diffusion.find(BASE if is_named else source, config)
    parts = load_components(folder, dtype)
    parts |= load_adapter(folder, parts["unet"], ip_adapter, dtype)
    if len(parts["texts"]) != 1:
        raise CheckpointError(
            f"{source}: expected a model of SD 1.5's form with one text encoder; one-step models "
            "with two are drawn with, and not explored"
        )
    own = stable_diffusion.defaults(folder, parts["unet"], cell_of(parts["vae"].config))
    card = {**own, **SUITED["one-step"], **stable_diffusion.read_cards(folder)}
    file = _lora_file(folder, lora, card, is_named=is_named)
    if file is not None:
        merge_lora(parts["unet"], file)
        parts["scheduler"] = _for_one_step(parts["scheduler"])
        card["scheduler"] = type(parts["scheduler"]).__name__
    towers = _towers(folder, parts, clip, dtype)
    used = [*stable_diffusion.digested(folder, ip_adapter), *towers, *([file] if file else [])]
    return {
        "parts": parts,
        "name": str(source),
        "digest": fingerprint(*used, settings=drawing_settings(card)),
        "card": card,
    }


def merge_lora(unet: Any, file: Path) -> None:
    """Add LoRA weights, in the names of diffusers, PEFT or kohya, to those of a U-Net.

    Raises:
        CheckpointError: If they cannot be read, or are of another network.
    """
    parts = {"unet": unet}
    try:
        fitted = fit(read_lora_file(file)[0], parts, "StableDiffusionLoraLoaderMixin", file.name)
        merge(fitted, parts, 1.0, file.name)
    except OffbeatError as error:
        raise CheckpointError(
            f"{file}: cannot be merged as the LoRA of this U-Net ({error})"
        ) from error
    refuse_broken(unet, file)


def _for_one_step(scheduler: Any) -> Any:
    """Return the scheduler that such LoRA weights were made for, with the model's noise levels."""
    from diffusers import TCDScheduler

    return TCDScheduler.from_config(scheduler.config)


def _lora_file(
    folder: PipelineFolder, asked: str | Path | None, card: dict[str, Any], *, is_named: bool
) -> Path | None:
    """Return the LoRA file that is asked for, or that the card or the name means.

    Raises:
        CheckpointError: If there is none.
    """
    if asked is None and is_named:
        return locate(LORA[0], only=(LORA[1],)) / LORA[1]
    if asked is None and card.get("one_step_lora") is None:
        return None
    file = Path(asked) if asked is not None else folder.path / str(card["one_step_lora"])
    if not file.is_file() or file.suffix != ".safetensors":
        raise CheckpointError(f"{file}: expected a .safetensors file of LoRA weights")
    return file


def _towers(
    folder: PipelineFolder, parts: dict[str, Any], clip: str | Path | None, dtype: torch.dtype
) -> list[Path]:
    """Add the image encoder, and the text's projection into its space; return what was read.

    Raises:
        CheckpointError: If they are of different widths.
    """
    from transformers import CLIPVisionModelWithProjection

    text = parts["texts"][0][1]
    parts["text_projection"] = None
    projects = hasattr(text, "text_projection")
    used: list[Path] = []
    if clip is not None or "image_encoder" not in parts or not projects:
        place = locate(CLIP if clip is None else clip, only=CLIP_FILES)
        used = [place / name for name in CLIP_FILES if (place / name).is_file()]
        parts["image_encoder"] = load_model(CLIPVisionModelWithProjection, place, dtype=dtype)
        parts["pixels"] = CLIP_PIXELS
        if (place / "preprocessor_config.json").is_file():
            parts["pixels"] = read_pixel_stats(place)
        if not projects:
            parts["text_projection"] = projection_of(place / "model.safetensors", dtype)
    width = int(parts["image_encoder"].config.projection_dim)
    projection = parts["text_projection"] or text.text_projection
    expected = (width, int(text.config.hidden_size))
    if tuple(projection.weight.shape) != expected:
        raise CheckpointError(
            f"{clip or folder.path}: expected a projection of text of shape {list(expected)}, got "
            f"{list(projection.weight.shape)}: it is of another CLIP than the model's text encoder"
        )
    return used
