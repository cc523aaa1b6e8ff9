"""FLUX.1 dev and schnell: text by T5, and CLIP's pooled vector -> latents by a flow transformer.

Both are distilled: the network is told the guidance scale (dev), or needs none (schnell), and one
pass a step is all. Only a negative prompt brings guidance of two passes.
Source: the published checkpoints and pipeline; Esser et al., arXiv:2403.03206, for the flow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from offbeat.backbones.flow.load import shift_of
from offbeat.backbones.flow.transformer import FlowDenoiser, Told
from offbeat.backbones.text import mean_state
from offbeat.checkpoints.known.flow import PATCH
from offbeat.types import TextEmbeds


class FluxBackbone(FlowDenoiser):
    """A guidance-distilled flow model, frozen; gradients reach tokens, text and latents.

    ``guidance_scale`` is what the network is told. With a negative prompt, ``true_guidance_scale``
    of the card is how far is gone from it.
    """

    _pooled_by = "hidden_size"

    pipeline = "FluxPipeline"
    packs = True
    few_steps_kind = "flux"
    lora_loader = "FluxLoraLoaderMixin"

    def encode_text(
        self, prompts: Sequence[str], *, tokens: Mapping[str, Tensor] | None = None
    ) -> TextEmbeds:
        """Encode prompts; each word of ``tokens`` is replaced by its vectors.

        Args:
            prompts: B texts. T5 reads all of it; CLIP the beginning that fits its positions, as in
                the pipeline.
            tokens: Word to its vectors, ``[E]`` or ``[K, E]``, CLIP's and T5's side by side;
                gradients reach them.

        Returns:
            T5's hidden states; CLIP's pooled vector and the mean of T5's states side by side. The
            transformer hears the former alone: the mean lets a loss on pooled text reach T5's rows.

        Raises:
            PromptError: If there is no prompt, or one is too long.
            ShapeError: If a token's width is not the encoders'.
        """
        assert self._t5 is not None  # the loader requires it
        (clip, _), (long, mask) = self._read(prompts, tokens, to_limit=True)
        states = long.last_hidden_state
        pooled = [clip.pooler_output, mean_state(states, mask)]
        return TextEmbeds(
            torch.cat([vector.float() for vector in pooled], dim=-1),
            states.float(),
            mask,
            tuple(vector.shape[-1] for vector in pooled),
        )

    def _timestep_settings(self, num_inference_steps: int, num_tokens: int) -> dict[str, Any]:
        config = self.scheduler.config
        settings: dict[str, Any] = {"mu": shift_of(config, num_tokens, max_shift=1.15)}
        if config.get("use_flow_sigmas"):
            return {**settings, "num_inference_steps": num_inference_steps}
        sigmas = torch.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        return {**settings, "sigmas": sigmas.tolist()}

    def _guided(self, negative: TextEmbeds | None, scale: float) -> tuple[bool, float]:
        reach = float(self._card["true_guidance_scale"])
        return negative is not None and reach > 1, reach

    def _velocity(self, latents: Tensor, timestep: Tensor, told: Told) -> Tensor:
        batch, _, height, width = latents.shape
        guidance = None
        if self.transformer.config.guidance_embeds:
            guidance = torch.full((batch,), told.guidance_scale, device=self.device)
        predicted = self.transformer(
            hidden_states=packed(latents),
            timestep=timestep.to(latents.dtype) / 1000,
            guidance=guidance,
            pooled_projections=told.pooled,
            encoder_hidden_states=told.states,
            txt_ids=latents.new_zeros(told.states.shape[1], 3),
            img_ids=places(height // PATCH, width // PATCH).to(latents),
        ).sample
        return unpacked(predicted, height, width)


def packed(latents: Tensor) -> Tensor:
    """Return ``[B, C, h, w]`` as tokens of 2 x 2 cells, ``[B, h w / 4, 4 C]``."""
    batch, channels, height, width = latents.shape
    cells = latents.view(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * PATCH**2)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return tokens, ``[B, h w / 4, 4 C]``, as ``[B, C, h, w]``."""
    cells = tokens.view(len(tokens), height // PATCH, width // PATCH, -1, PATCH, PATCH)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, height, width)


def places(height: int, width: int) -> Tensor:
    """Return where each image token is, ``[height width, 3]``: 0, row, column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).view(-1, 3)
