"""Flow models whose text one language model reads: Chroma, Z-Image, Qwen-Image and SANA.

They share the way along a flow; a family says how it reads a prompt, how its transformer is
called, and what its guidance is. None of them hears a pooled vector: the mean of the states over a
prompt stands in its place, for losses on pooled text, and the transformer never hears it.
Sources: the published checkpoints and pipelines; Xie et al., SANA, arXiv:2410.10629.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from offbeat.backbones.flow.flux import packed, places, unpacked
from offbeat.backbones.flow.load import shift_of
from offbeat.backbones.flow.transformer import FlowDenoiser, Told
from offbeat.backbones.text import Encoder, LanguageEncoder, T5Encoder, mean_state
from offbeat.checkpoints.known.flow import PATCH
from offbeat.types import TextEmbeds


class LanguageFlow(FlowDenoiser):
    """A flow model with one text encoder, frozen; gradients reach tokens, text and latents."""

    def _read_encoders(self, parts: Mapping[str, Any]) -> tuple[Encoder, ...]:
        ((tokenizer, module),) = parts["texts"]
        return (self._encoder(tokenizer, module),)

    @abstractmethod
    def _encoder(self, tokenizer: Any, module: Any) -> Encoder:
        """Return what reads prompts."""

    def encode_text(
        self, prompts: Sequence[str], *, tokens: Mapping[str, Tensor] | None = None
    ) -> TextEmbeds:
        """Encode prompts; each word of ``tokens`` is replaced by its vectors.

        Args:
            prompts: B texts.
            tokens: Word to its vectors, ``[E]`` or ``[K, E]``, of the encoder's input embeddings;
                gradients reach them.

        Returns:
            Hidden states, and the mean of each prompt's own.

        Raises:
            PromptError: If there is no prompt, or one is too long.
            ShapeError: If a token's width is not the encoder's.
        """
        states, mask = self._states(prompts, tokens)
        states = states.float()
        return TextEmbeds(mean_state(states, mask), states, mask)

    @abstractmethod
    def _states(
        self, prompts: Sequence[str], tokens: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Return the states that the transformer is told, ``[B, L, E]``, and their mask."""

    def _timestep_settings(self, num_inference_steps: int, num_tokens: int) -> dict[str, Any]:
        sigmas = torch.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist()
        return {"mu": shift_of(self.scheduler.config, num_tokens, max_shift=1.15), "sigmas": sigmas}


class ChromaBackbone(LanguageFlow):
    """Chroma: T5 alone, a transformer of FLUX's form without distillation, guidance of two passes.

    Its transformer sees one place of the padding behind a prompt, as its pipeline does.
    """

    pipeline = "ChromaPipeline"
    lora_loader = "FluxLoraLoaderMixin"
    packs = True

    def _encoder(self, tokenizer: Any, module: Any) -> Encoder:
        return T5Encoder(tokenizer, module, self._name, limit=self.max_sequence_length, masks=True)

    def _states(
        self, prompts: Sequence[str], tokens: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        ((output, mask),) = self._read(prompts, tokens, to_limit=True)
        return output.last_hidden_state, mask

    def _velocity(self, latents: Tensor, timestep: Tensor, told: Told) -> Tensor:
        height, width = latents.shape[-2:]
        tokens = packed(latents)
        one_more = torch.cat([told.mask.new_ones(len(told.mask), 1), told.mask[:, :-1]], dim=1)
        seen = torch.cat([one_more, told.mask.new_ones(tokens.shape[:2])], dim=1)
        predicted = self.transformer(
            hidden_states=tokens,
            timestep=timestep.to(latents.dtype) / 1000,
            encoder_hidden_states=told.states,
            txt_ids=latents.new_zeros(told.states.shape[1], 3),
            img_ids=places(height // PATCH, width // PATCH).to(latents),
            attention_mask=seen.to(latents.dtype),
        ).sample
        return unpacked(predicted, height, width)


class ZImageBackbone(LanguageFlow):
    """Z-Image and Z-Image-Turbo: Qwen3 reads a prompt in its chat template.

    Guidance begins above 0: the scale is how far is gone beyond the text's own prediction.
    """

    pipeline = "ZImagePipeline"
    lora_loader = "ZImageLoraLoaderMixin"

    def _encoder(self, tokenizer: Any, module: Any) -> Encoder:
        def template(prompt: str) -> str:
            text: str = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=True,
            )
            return text

        return LanguageEncoder(
            tokenizer, module, self._name, limit=self.max_sequence_length, template=template
        )

    def _states(
        self, prompts: Sequence[str], tokens: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        ((output, mask),) = self._read(prompts, tokens, output_hidden_states=True)
        return output.hidden_states[-2], mask

    @property
    def _channels(self) -> int:
        return int(self.transformer.in_channels)

    def _guided(self, negative: TextEmbeds | None, scale: float) -> tuple[bool, float]:
        return scale > 0, 1 + scale

    def _velocity(self, latents: Tensor, timestep: Tensor, told: Told) -> Tensor:
        prompts = [row[own] for row, own in zip(told.states, told.mask, strict=True)]
        times = (1000 - timestep) / 1000
        (predicted,) = self.transformer(
            list(latents[:, :, None].unbind()), times, prompts, return_dict=False
        )
        return -torch.stack([part.float() for part in predicted]).squeeze(2)


class QwenImageBackbone(LanguageFlow):
    """Qwen-Image: Qwen2.5-VL reads a prompt in a template of its own.

    Guidance is scaled back to the length of the text's own prediction. Its pipeline guides only
    beside a negative prompt; here that is one space if nothing is said, as its authors use it.
    """

    pipeline = "QwenImagePipeline"
    lora_loader = "QwenImageLoraLoaderMixin"
    packs = True
    EMPTY = " "

    def _encoder(self, tokenizer: Any, module: Any) -> Encoder:
        from diffusers import QwenImagePipeline

        plain = QwenImagePipeline(None, None, None, None, None)  # which alone knows its template
        self._dropped = int(plain.prompt_template_encode_start_idx)
        limit = self.max_sequence_length + self._dropped
        return LanguageEncoder(
            tokenizer,
            module.model,  # what it would say next is not asked
            self._name,
            limit=limit,
            template=lambda prompt: str(plain.prompt_template_encode.replace("{}", prompt)),
        )

    def _states(
        self, prompts: Sequence[str], tokens: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        ((output, mask),) = self._read(prompts, tokens, output_hidden_states=True)
        return output.hidden_states[-1][:, self._dropped :], mask[:, self._dropped :]

    def _empty(self) -> TextEmbeds:
        return self.encode_text([self.EMPTY])

    def _rescaled(self, combined: Tensor, cond: Tensor) -> Tensor:
        height, width = combined.shape[-2:]
        tokens, own = packed(combined), packed(cond)
        scale = own.norm(dim=-1, keepdim=True) / tokens.norm(dim=-1, keepdim=True)
        return unpacked(tokens * scale, height, width)

    def _velocity(self, latents: Tensor, timestep: Tensor, told: Told) -> Tensor:
        batch, _, height, width = latents.shape
        predicted = self.transformer(
            hidden_states=packed(latents),
            timestep=timestep.to(latents.dtype) / 1000,
            encoder_hidden_states=told.states,
            encoder_hidden_states_mask=None if bool(told.mask.all()) else told.mask.long(),
            img_shapes=[[(1, height // PATCH, width // PATCH)]] * batch,
        ).sample
        return unpacked(predicted, height, width)


class SanaBackbone(LanguageFlow):
    """SANA: Gemma 2 reads a prompt behind an instruction; negative prompts are read without it."""

    pipeline = "SanaPipeline"
    lora_loader = "SanaLoraLoaderMixin"
    patch = 1

    def _encoder(self, tokenizer: Any, module: Any) -> Encoder:
        from diffusers import SanaPipeline

        settings = inspect.signature(SanaPipeline.__call__).parameters
        instruction = "\n".join(settings["complex_human_instruction"].default)
        self._negatives = LanguageEncoder(
            tokenizer,
            module,
            self._name,
            limit=self.max_sequence_length,
            template=lambda prompt: prompt,
            lowers=True,
        )
        length = len(tokenizer(instruction).input_ids) + self.max_sequence_length - 2
        return LanguageEncoder(
            tokenizer,
            module,
            self._name,
            limit=length,
            template=lambda prompt: instruction + prompt,
            lowers=True,
        )

    def _states(
        self, prompts: Sequence[str], tokens: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        ((output, mask),) = self._read(prompts, tokens, to_limit=True)
        last = self.max_sequence_length - 1
        return tuple(  # type: ignore[return-value]
            torch.cat([whole[:, :1], whole[:, -last:]], dim=1)
            for whole in (output.last_hidden_state, mask)
        )

    def encode_negative(self, prompts: Sequence[str]) -> TextEmbeds:
        """Encode prompts that guidance steers from: the model reads them without instruction.

        Raises:
            PromptError: If there is no prompt, or one is too long.
        """
        output, mask = self._negatives.read(prompts, self._words, to_limit=True)
        states = output.last_hidden_state.float()
        return TextEmbeds(mean_state(states, mask), states, mask)

    def _empty(self) -> TextEmbeds:
        return self.encode_negative([""])

    def _timestep_settings(self, num_inference_steps: int, num_tokens: int) -> dict[str, Any]:
        return {"num_inference_steps": num_inference_steps}

    def _velocity(self, latents: Tensor, timestep: Tensor, told: Told) -> Tensor:
        config = self.transformer.config
        predicted: Tensor = self.transformer(
            latents,
            encoder_hidden_states=told.states,
            encoder_attention_mask=told.mask.long(),
            timestep=timestep * config.timestep_scale,
        ).sample
        return predicted[:, : config.in_channels]
