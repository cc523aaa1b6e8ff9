"""SD3 and SD3.5: text by two CLIP encoders and T5 -> latents by a rectified-flow transformer.

T5 is optional, as in the pipeline: a folder without ``text_encoder_3`` is read without it.
Source: Esser et al., Scaling Rectified Flow Transformers, arXiv:2403.03206.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from offbeat.backbones.flow.load import shift_of
from offbeat.backbones.flow.transformer import FlowDenoiser, Told
from offbeat.backbones.text import mean_state
from offbeat.types import TextEmbeds


class SD3Backbone(FlowDenoiser):
    """A rectified-flow text-to-image model, frozen; gradients reach tokens, text and latents."""

    pipeline = "StableDiffusion3Pipeline"
    lora_loader = "SD3LoraLoaderMixin"

    def encode_text(
        self, prompts: Sequence[str], *, tokens: Mapping[str, Tensor] | None = None
    ) -> TextEmbeds:
        """Encode prompts; each word of ``tokens`` is replaced by its vectors.

        Args:
            prompts: B texts. With T5, which reads all of it, a prompt may be longer than CLIP's
                positions: CLIP reads its beginning, as in the pipeline.
            tokens: Word to its vectors, ``[E]`` or ``[K, E]``, those of all encoders side by side;
                gradients reach them.

        Returns:
            Hidden states of CLIP side by side, then T5's, in one sequence; pooled vectors of CLIP
            and the mean of T5's states side by side. The transformer hears CLIP's pooled vectors
            alone: T5's mean lets a loss on pooled text reach its rows.

        Raises:
            PromptError: If there is no prompt, or one is too long.
            ShapeError: If a token's width is not the encoders'.
        """
        read = self._read(prompts, tokens, to_limit=True, output_hidden_states=True)
        clips = read[: len(self._clips)]
        width = int(self.transformer.config.joint_attention_dim)
        states = torch.cat([output.hidden_states[-2] for output, _ in clips], dim=-1)
        states = pad(states, (0, width - states.shape[-1]))
        pooled = [output.text_embeds for output, _ in clips]
        mask = clips[0][1]
        if self._t5 is not None:
            output, own = read[-1]
            long = output.last_hidden_state
            pooled.append(mean_state(long, own))
        else:
            shape = (len(states), self.max_sequence_length)
            long, own = states.new_zeros(*shape, width), mask.new_zeros(shape)
        return TextEmbeds(
            torch.cat([vector.float() for vector in pooled], dim=-1),
            torch.cat([states.float(), long.float()], dim=1),
            torch.cat([mask, own], dim=1),
            tuple(vector.shape[-1] for vector in pooled),
        )

    def _timestep_settings(self, num_inference_steps: int, num_tokens: int) -> dict[str, Any]:
        config = self.scheduler.config
        settings: dict[str, Any] = {"num_inference_steps": num_inference_steps}
        if config.get("use_dynamic_shifting"):
            settings["mu"] = shift_of(config, num_tokens, max_shift=1.16)
        return settings

    def _velocity(self, latents: Tensor, timestep: Tensor, told: Told) -> Tensor:
        predicted: Tensor = self.transformer(
            hidden_states=latents,
            timestep=timestep,
            encoder_hidden_states=told.states,
            pooled_projections=told.pooled,
        ).sample
        return predicted
