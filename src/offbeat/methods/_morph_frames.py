"""The two ends of a path by DiffMorpher, and the frames between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from offbeat.functional import slerp
from offbeat.methods._morphing import (
    BlendedAttention,
    Lora,
    adapted_statistics,
    blended_lora,
    blended_text,
)
from offbeat.protocols import MorphingBackbone
from offbeat.rng import stream
from offbeat.types import TextEmbeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Both pictures of N pairs, and how what is between them is drawn."""

    clean: tuple[Tensor, Tensor]
    """Latents of the pictures, ``[N, C, h, w]``."""
    noise: tuple[Tensor, Tensor]
    """Where their inversion leads, ``[N, C, h, w]``."""
    texts: tuple[TextEmbeds, TextEmbeds]
    lora: tuple[Lora, Lora]
    """Factors of each picture, ``[N, r, in]`` and ``[N, out, r]``."""
    num_inference_steps: int
    guidance_scale: float
    blended_steps: int
    """Steps, the first ones, in which attention is blended."""
    own_attention: float
    """What a frame keeps of its own keys and values there, 0 to 1."""
    adain: bool

    @torch.no_grad()
    def draw(self, backbone: MorphingBackbone, rows: Tensor, shares: Tensor) -> Tensor:
        """Return frames of some pairs, ``[n, F, 3, H, W]``, drawn in one batch with their ends.

        Args:
            backbone: Frozen.
            rows: Numbers of the pairs, ``[n]``.
            shares: Of the second picture in each frame, 0 to 1, ``[n, F]``.
        """
        length = shares.shape[1] + 2
        ends = torch.zeros(len(rows), 1), torch.ones(len(rows), 1)
        at = torch.cat([ends[0], shares, ends[1]], dim=1).flatten().to(backbone.device)
        own = rows.repeat_interleave(length).to(backbone.device)
        lora = blended_lora(lora_rows(self.lora[0], own), lora_rows(self.lora[1], own), at)
        blend = BlendedAttention(at, length, until=self.blended_steps, own=self.own_attention)
        first, second = (text_rows(text, own) for text in self.texts)
        with backbone.adapted(lora), backbone.edit_attention(blend):
            latents = backbone.denoise(
                slerp(self.noise[0][own], self.noise[1][own], at),
                blended_text(first, second, at),
                generator=stream(0, "diffmorpher", "unused"),  # DDIM adds no noise
                num_inference_steps=self.num_inference_steps,
                guidance_scale=self.guidance_scale,
                sampler="ddim",
            )
        if self.adain:
            latents = adapted_statistics(latents, self.clean[0][own], self.clean[1][own], at)
        frames = latents.unflatten(0, (-1, length))[:, 1:-1]  # [n, F, C, h, w]
        images = backbone.decode(frames.flatten(0, 1)).cpu()
        return images.view(len(rows), -1, *images.shape[1:])


def lora_rows(factors: Lora, rows: Tensor) -> dict[str, Tensor]:
    """Return the factors of some pictures, one for each number of ``rows``."""
    return {name: factor[rows.to(factor.device)] for name, factor in factors.items()}


def text_rows(text: TextEmbeds, rows: Tensor) -> TextEmbeds:
    """Return the prompts of some pictures, one for each number of ``rows``."""
    at = rows.to(text.text_embeds.device)
    return TextEmbeds(
        text.text_embeds[at],
        text.text_encoder_hidden_states[at],
        text.text_mask[at],
        text.widths,
    )
