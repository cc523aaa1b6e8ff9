"""Draw a concept's pictures and turn them into files; shared by every command that draws."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offbeat import formats, plots
from offbeat.protocols import PriorBackbone
from offbeat.rng import streams
from offbeat.sampling import sample_concept
from offbeat.types import Concept, Observe, ignore

if TYPE_CHECKING:
    from PIL import Image

DRAW_BATCH = 4
"""Pictures between two progress reports; each has its own streams, so it changes no picture."""


def prior_settings(concept: Concept) -> dict[str, Any]:
    """Return the prior's settings that the concept was learned with: distances hold for those."""
    found = concept.metadata
    settings: dict[str, Any] = {}
    if "prior_num_inference_steps" in found:
        settings["num_inference_steps"] = int(found["prior_num_inference_steps"])
    if "prior_guidance_scale" in found:
        settings["prior_guidance_scale"] = float(found["prior_guidance_scale"])
    return settings


def draw(
    backbone: PriorBackbone,
    concept: Concept,
    *,
    seed: int,
    num: int,
    purpose: str = "image",
    template: str | None = None,
    negative_prompt: str = "",
    decoding: Mapping[str, Any] | None = None,
    observe: Observe = ignore,
    stage: str = "drawing",
) -> tuple[Tensor, Tensor]:
    """Return embeddings ``[B, D]`` and images ``[B, 3, H, W]``, on the CPU.

    Image i depends on the concept, the seed and i alone: two concepts share their noise.

    Args:
        backbone: The checkpoint.
        concept: What to draw; its metadata may hold the prior's settings.
        seed: Of all noise.
        num: Pictures.
        purpose: Name of the streams.
        template: Another prompt with ``{concept}``.
        negative_prompt: What prior and decoder steer from, as in Kandinsky's pipelines.
        decoding: Steps and guidance of the decoder; None is the checkpoint's own.
        observe: Told how far it is.
        stage: Under this name.
    """
    with torch.no_grad():
        settings = prior_settings(concept)
        steering: dict[str, Any] = {}
        if negative_prompt:
            negative = backbone.encode_text([negative_prompt])
            noise = streams(seed, purpose, "negative", num=1)
            plain = {**settings, "prior_guidance_scale": 1.0}
            embeds = backbone.sample_prior(negative, generator=noise, **plain)
            steering["negative_image_embeds"] = embeds
            settings["negative"] = negative
        image_embeds = sample_concept(
            backbone,
            concept,
            streams(seed, purpose, "prior", num=num),
            template=template,
            **settings,
        )
        parts = []
        for start in range(0, num, DRAW_BATCH):
            chunk = image_embeds[start : start + DRAW_BATCH].to(backbone.device)
            noise = streams(seed, purpose, "decoder", num=len(chunk), start=start)
            images = backbone.decode_embeds(chunk, generator=noise, **(decoding or {}), **steering)
            parts.append(images.cpu())
            observe(stage, start + len(chunk), num, {})
    return image_embeds, torch.cat(parts)


def png_files(
    folder: str,
    pictures: Sequence[Image.Image],
    request: Mapping[str, Any],
    concept: Concept,
    backbone: PriorBackbone,
    *,
    seed: int | None = None,
) -> dict[str, bytes]:
    """Return the files of pictures, each with the recipe that draws it again."""
    learned = bool(concept.token_embeds or concept.lora or concept.image_embeds is not None)
    shown = concept.prompt(request["prompt"] if request.get("verb") == "render" else None)
    recipe = {
        **request,
        "prompt": shown.replace(concept.word, f"[{concept.subject}]") if learned else shown,
        "request": dict(request),
        "seed": request["seed"] if seed is None else seed,
        **{
            name: request.get(name, backbone.card[name])
            for name in ("num_inference_steps", "guidance_scale")
        },
        "method": concept.metadata.get("method", "ordinary"),
        "scheduler": backbone.card.get("scheduler"),
        "novelty": _dial(request) if learned else None,
        "version": request["versions"].get("offbeat"),
    }
    return {
        f"{folder}/{index:04d}.png": formats.encode_png(picture, {**recipe, "index": index})
        for index, picture in enumerate(pictures)
    }


def _dial(request: Mapping[str, Any]) -> str | None:
    """Return how far was asked for, in one word."""
    config = request.get("config") or {}
    if config.get("reach") is not None:
        return f"{config['reach']:g}x"
    return None if config.get("novelty") is None else f"{config['novelty']:g}"


def sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    *,
    title: str,
    captions: Sequence[str] = (),
    note: str = "",
) -> bytes:
    """Return a contact sheet as PNG."""
    file = io.BytesIO()
    plots.contact_sheet(rows, title=title, captions=captions, note=note).save(file, format="PNG")
    return file.getvalue()
