"""Draw pictures from text by a checkpoint of either form, with or without a prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.protocols import DrawsText
from offbeat.rng import streams
from offbeat.types import Request, TextEmbeds


@dataclass(frozen=True, slots=True)
class Noise:
    """The streams that pictures are drawn from, two for each; text alone leaves the first unread.

    Streams are used up: make them anew for each drawing.
    """

    prior: list[torch.Generator]
    image: list[torch.Generator]

    @classmethod
    def of(cls, seed: int, *purpose: str | int, num: int, start: int = 0) -> Noise:
        """Return the streams of pictures ``start`` to ``start + num`` of a purpose."""
        return cls(
            streams(seed, *purpose, "prior", num=num, start=start),
            streams(seed, *purpose, "decoder", num=num, start=start),
        )

    @classmethod
    def ordinary(cls, request: Request, start: int = 0) -> Noise:
        """Return those that every command draws the ordinary pictures of a request from."""
        return cls.of(request.seed, "image", num=request.num_images, start=start)


@torch.no_grad()
def draw_from_text(
    backbone: Any,
    text: TextEmbeds,
    noise: Noise,
    *,
    guidance_times: float = 1.0,
    num_inference_steps: int | None = None,
) -> Tensor:
    """Return pictures of a text, ``[N, 3, H, W]``, 0 to 1, on the CPU.

    Args:
        backbone: Draws from text itself, or has a prior.
        text: One prompt for all, or one for each.
        noise: Of N pictures.
        guidance_times: Multiplies the checkpoint's own guidance scales, above 0.
        num_inference_steps: Of the pictures' denoising; None is the checkpoint's own.
    """
    own = backbone.card
    steering = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_times * float(own["guidance_scale"]),
    }
    if isinstance(backbone, DrawsText):
        return backbone.draw_text(text, generator=noise.image, **steering).cpu()  # type: ignore[arg-type]
    image_embeds = embeds_of_text(backbone, text, noise, guidance_times=guidance_times)
    images: Tensor = backbone.decode_embeds(image_embeds, generator=noise.image, **steering)
    return images.cpu()


@torch.no_grad()
def embeds_of_text(
    backbone: Any, text: TextEmbeds, noise: Noise, *, guidance_times: float = 1.0
) -> Tensor:
    """Return what a prior makes of a text, ``[N, D]``, with the settings of ordinary pictures."""
    scale = guidance_times * float(backbone.card["prior_guidance_scale"])
    found: Tensor = backbone.sample_prior(
        text, generator=noise.prior, num_samples=len(noise.prior), prior_guidance_scale=scale
    )
    return found
