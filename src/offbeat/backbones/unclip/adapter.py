"""pocket, Kandinsky 2.1 and 2.2: text -> prior -> CLIP image embedding -> picture.

All three are the same component classes of diffusers and transformers, so they are one adapter.
Source: Ramesh et al., Hierarchical Text-Conditional Image Generation, arXiv:2204.06125.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.backbones.conditions import step_settings
from offbeat.backbones.guidance import Guidance, Walk
from offbeat.backbones.images import clip_pixels, in_batches
from offbeat.backbones.redraw import Redraw, Redrawing, check_grid
from offbeat.backbones.text import Encoder, ReadsText
from offbeat.backbones.unclip.load import load_decoder, load_prior
from offbeat.backbones.unclip.prior import LORA_TARGETS, FastPrior, check_streams, lora_name
from offbeat.checkpoints.base import Checkpoint
from offbeat.checkpoints.known.cards import drawing_settings, read_card, suited
from offbeat.checkpoints.known.unclip import find
from offbeat.checkpoints.pipeline import fingerprint
from offbeat.core.checks import check_range, check_shape
from offbeat.core.rng import normal
from offbeat.errors import ShapeError
from offbeat.protocols import Generators
from offbeat.types import TextEmbeds


class UnclipBackbone(Checkpoint, ReadsText):
    """An unCLIP prior and decoder, frozen; gradients reach tokens, LoRA factors and embeddings."""

    def __init__(
        self,
        prior: Mapping[str, Any],
        decoder: Mapping[str, Any],
        *,
        name: str,
        digest: str,
        card: Mapping[str, Any],
    ) -> None:
        self._name = name
        self._fingerprint = digest
        self._card = {**suited("unclip"), **card}
        self.tokenizer = prior["tokenizer"]
        self.text_encoder = prior["text_encoder"]
        self._encoders = (Encoder(self.tokenizer, self.text_encoder, name),)
        self.image_encoder = prior["image_encoder"]
        self.image_size = int(self.image_encoder.config.image_size)
        self._pixel_stats = prior["pixels"]
        # a scheduler keeps its timesteps: two users of one object would disturb each other
        self.fast_prior = FastPrior(
            prior["prior"],
            copy.deepcopy(prior["scheduler"]),
            count=lambda samples: self._asked(prior=samples),
        )
        self.unet = decoder["unet"]
        self.movq = decoder["movq"]
        self.scheduler = copy.deepcopy(decoder["scheduler"])
        self.decoder_text = decoder.get("text")
        self._freeze()

    @classmethod
    def load(
        cls,
        source: str | Path = "pocket",
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> UnclipBackbone:
        """Load a checkpoint by name, folder (with ``prior/`` and ``decoder/``) or hub id.

        Raises:
            CheckpointError: If there is no such checkpoint, or it is damaged or of another family.
            UnsafeWeightsError: If its weights are there only as pickles.
        """
        prior, decoder, where = find(source)
        card = read_card(where)
        folders = dict.fromkeys((prior.path, decoder.path))
        backbone = cls(
            load_prior(prior, dtype),
            load_decoder(decoder, dtype),
            name=str(source),
            digest=fingerprint(*folders, settings=drawing_settings(card)),
            card={**card, "scheduler": decoder.index["scheduler"][1]},
        )
        return backbone.to(device)

    # --- text -----------------------------------------------------------------------------

    def encode_text(
        self, prompts: Sequence[str], *, tokens: Mapping[str, Tensor] | None = None
    ) -> TextEmbeds:
        """Encode prompts; each word of ``tokens`` is replaced by its vectors.

        Args:
            prompts: B texts.
            tokens: Word to its vectors, ``[E]`` or ``[K, E]``; gradients reach them.

        Raises:
            PromptError: If there is no prompt, or one is longer than the text encoder's positions:
                it is never cut in silence.
            ShapeError: If a token's width is not the encoder's.
        """
        ((output, text_mask),) = self._read(prompts, tokens)
        return TextEmbeds(output.text_embeds.float(), output.last_hidden_state.float(), text_mask)

    # --- prior ----------------------------------------------------------------------------

    def sample_prior(
        self,
        text: TextEmbeds,
        *,
        generator: Generators,
        num_samples: int | None = None,
        negative: TextEmbeds | None = None,
        lora: Mapping[str, Tensor] | None = None,
        num_inference_steps: int | None = None,
        prior_guidance_scale: float | None = None,
        gradient_steps: int | None = None,
    ) -> Tensor:
        """Return ``image_embeds``, ``[B, D]``, float32.

        Args:
            text: One prompt for all samples, or one for each.
            generator: One stream, or one for each sample.
            num_samples: B; None means the number of prompts.
            negative: What guidance steers from; None is the empty prompt.
            lora: Factors in PEFT's names, from ``init_lora``; gradients reach them.
            num_inference_steps: Denoising steps, 2 or more.
            prior_guidance_scale: 1 = off.
            gradient_steps: Let the gradient pass the last so many denoising steps only.

        Raises:
            RangeError: If a number is out of its range.
        """
        steps = num_inference_steps or int(self._card["prior_num_inference_steps"])
        scale = prior_guidance_scale
        scale = float(self._card["prior_guidance_scale"]) if scale is None else scale
        check_range("num_inference_steps", steps, 2, 1000)
        if negative is None and scale > 1:
            negative = self._once("empty", lambda: self.encode_text([""]))
        return self.fast_prior.sample(
            text,
            negative,
            generator,
            num_samples=num_samples or len(text),
            num_inference_steps=steps,
            prior_guidance_scale=scale,
            lora=lora,
            gradient_steps=gradient_steps,
        )

    def init_lora(self, rank: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Return fresh LoRA factors for every attention projection of the prior.

        A is Kaiming-uniform as in PEFT, B zero, alpha = rank: at the start they change nothing.
        """
        check_range("rank", rank, 1, 1024)
        factors = {}
        for index, block in enumerate(self.fast_prior.prior.transformer_blocks):
            for target in LORA_TARGETS:
                weight = block.attn1.get_submodule(target).weight
                out_width, in_width = weight.shape
                noise = torch.rand(rank, in_width, generator=generator) * 2 - 1
                factors[lora_name(index, target, "A")] = noise * in_width**-0.5
                factors[lora_name(index, target, "B")] = torch.zeros(out_width, rank)
        return factors

    # --- pictures -------------------------------------------------------------------------

    def encode_image(self, images: Tensor) -> Tensor:
        """Return ``image_embeds``, ``[B, D]``, of ``images``, ``[B, 3, H, W]``, 0 to 1."""
        pixels = clip_pixels(images, self.image_size, self._pixel_stats, self.image_encoder)
        image_embeds: Tensor = self.image_encoder(pixels).image_embeds
        return image_embeds.float()

    def unconditional_embeds(self) -> Tensor:
        """Return the embedding that guidance steers from, ``[1, D]``: of a zero picture."""
        return self._once("zero", self._zero_picture)

    def _zero_picture(self) -> Tensor:
        size = self.image_size
        pixels = torch.zeros(1, 3, size, size, dtype=self.image_encoder.dtype, device=self.device)
        image_embeds: Tensor = self.image_encoder(pixels).image_embeds
        return image_embeds.float()

    def decode_embeds(
        self,
        image_embeds: Tensor,
        *,
        generator: Generators,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_image_embeds: Tensor | None = None,
        redraw: Redraw | None = None,
    ) -> Tensor:
        """Return ``images``, ``[B, 3, H, W]``, float32, 0 to 1.

        Args:
            image_embeds: ``[B, D]``.
            generator: One for each sample (then batches are sized to memory), or one for all.
            num_inference_steps: Denoising steps; None is the checkpoint's own.
            guidance_scale: 1 = off; None is the checkpoint's own.
            negative_image_embeds: What guidance steers from, ``[1, D]`` or ``[B, D]``.
            redraw: A picture to begin from in the place of noise.
        """
        check_shape("image_embeds", image_embeds, None, self.unet_embed_width)
        check_streams(generator, len(image_embeds))
        image_embeds = image_embeds.to(self.device)
        steps = num_inference_steps or int(self._card["num_inference_steps"])
        scale = float(self._card["guidance_scale"]) if guidance_scale is None else guidance_scale
        negative = self.unconditional_embeds() if scale > 1 else image_embeds
        if negative_image_embeds is not None:
            negative = negative_image_embeds.to(self.device)
        negative = negative.expand(len(image_embeds), -1)

        def draw(rows: slice) -> Tensor:
            noise = list(generator[rows]) if isinstance(generator, Sequence) else generator
            latents = self._denoise(image_embeds[rows], negative[rows], noise, steps, scale, redraw)
            return self.decode(latents)

        single = not isinstance(generator, Sequence)
        size = len(image_embeds) if single else int(self._card["decode_batch_size"])
        noises = generator if isinstance(generator, Sequence) else ()
        return in_batches(draw, len(image_embeds), size, noises)

    @property
    def unet_embed_width(self) -> int:
        """Width D of the embeddings that the decoder takes."""
        return int(self.fast_prior.prior.config.embedding_dim)

    def decode(self, latents: Tensor) -> Tensor:
        """Return ``images``, ``[B, 3, H, W]``, 0 to 1, of MoVQ ``latents``."""
        decoded = self.movq.decode(latents.to(self.movq.dtype), force_not_quantize=True).sample
        images: Tensor = (decoded.float() / 2 + 0.5).clamp(0, 1)
        return images

    def _denoise(
        self,
        image_embeds: Tensor,
        negative: Tensor,
        noise: Any,
        steps: int,
        scale: float,
        redraw: Redraw | None,
    ) -> Tensor:
        """Run the decoder's U-Net from noise to latents, as the Kandinsky pipelines do."""
        dtype, batch, guided = self.unet.dtype, len(image_embeds), scale > 1
        guidance = Guidance(self._guider, scale, Walk(steps, noise))
        told: tuple[dict[str, Tensor], Tensor | None] | None = None
        self.scheduler.set_timesteps(steps)
        timesteps = self.scheduler.timesteps
        start, redrawing = 0, None
        if redraw is None:
            shape = (batch, self.unet.config.in_channels, *self._latent_size())
            latents = normal(shape, noise, self.device) * self.scheduler.init_noise_sigma
        else:
            clean = self.encode_latents(redraw.images.to(self.device))
            clean = clean.expand(batch, *clean.shape[1:])
            drawn = normal(clean.shape, noise, self.device)
            redrawing = Redrawing(
                redraw, clean, drawn, partial(_noised, copy.deepcopy(self.scheduler), timesteps)
            )
            start = redraw.start(len(timesteps))
            latents = redrawing.latents(start, self.scheduler.init_noise_sigma)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(start)
        extra = step_settings(self.scheduler, noise)
        keeps_variance = getattr(self.scheduler.config, "variance_type", None) in (
            "learned",
            "learned_range",
        )
        for step, timestep in enumerate(timesteps[start:], start):
            shown = latents
            if hasattr(self.scheduler, "scale_model_input"):
                shown = self.scheduler.scale_model_input(shown, timestep)
            shown, doubles = shown.to(dtype), guided and guidance.guides(step)
            doubled = torch.cat([shown, shown]) if doubles else shown
            self._asked(denoiser=len(doubled))
            if told is None or self._guider is not None:  # it may change from step to step
                embeds = guidance.told(image_embeds, step)
                embeds = torch.cat([negative, embeds]) if doubles else embeds
                told = self._condition(embeds.to(self.device, dtype))
            condition, states = told
            output: Tensor = self.unet(
                doubled, timestep, encoder_hidden_states=states, added_cond_kwargs=condition
            ).sample.float()
            noise_pred, variance = output.split(latents.shape[1], dim=1)
            if doubles:
                uncond, cond = noise_pred.chunk(2)
                noise_pred = guidance.combined(uncond, cond, step)
                variance = variance.chunk(2)[1]
            elif guided:
                noise_pred = guidance.alone(noise_pred, step)
            if keeps_variance:
                noise_pred = torch.cat([noise_pred, variance], dim=1)
            latents = self.scheduler.step(noise_pred, timestep, latents, **extra).prev_sample
            if redrawing is not None:
                latents = redrawing.after_step(step, latents)
        denoised: Tensor = latents
        return denoised

    def encode_latents(self, images: Tensor) -> Tensor:
        """Return MoVQ ``latents``, ``[B, C, h, w]``, of ``images``, ``[B, 3, H, W]``, 0 to 1.

        Raises:
            ShapeError: If a side is no multiple of ``grid``.
        """
        check_grid(images, self.grid)
        pixels = (images * 2 - 1).to(self.device, self.movq.dtype)
        latents: Tensor = self.movq.encode(pixels).latents.float()
        return latents

    @property
    def grid(self) -> int:
        """Pixels that a side of a picture must be a multiple of."""
        return int(2 ** (len(self.movq.config.block_out_channels) - 1)) ** 2

    def _condition(self, embeds: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return what the U-Net is told: the embedding and, in 2.1, an empty text."""
        if self.decoder_text is None:
            return {"image_embeds": embeds}, None
        tokenizer, encoder = self.decoder_text
        batch = tokenizer(
            "", padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        ).to(self.device)
        pooled, states = encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        pooled, states = pooled.to(embeds.dtype), states.to(embeds.dtype)
        condition = {"image_embeds": embeds, "text_embeds": pooled.expand(len(embeds), -1)}
        return condition, states.expand(len(embeds), -1, -1)

    def _latent_size(self) -> tuple[int, int]:
        factor = 2 ** (len(self.movq.config.block_out_channels) - 1)
        # the pipelines round up to multiples of factor squared; so do we
        height, width = (
            -(-int(self._card[side]) // factor**2) * factor for side in ("height", "width")
        )
        return height, width

    def lora_parts(self) -> dict[str, Any]:
        """Return the networks that LoRA factors may change: the prior, and the decoder."""
        return {"prior": self.fast_prior.prior, "unet": self.unet}

    def read_lora(
        self, raw: Mapping[str, Tensor], file: str = "lora"
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Return factors of a file by the prior's attention, without its name; see ``Checkpoint``.

        Raises:
            ShapeError: If they change another part too.
        """
        factors, left_out = super().read_lora(raw, file)
        own = {name.removeprefix("prior."): factor for name, factor in factors.items()}
        known = tuple(f".attn1.{target}.lora_" for target in LORA_TARGETS)
        strange = next((name for name in own if not any(part in name for part in known)), None)
        if strange is not None or "unet" in {name.partition(".")[0] for name in own}:
            raise ShapeError(
                f"{file}: changes more than the prior's attention; draw with it by --lora"
            )
        return own, left_out

    def _called_by_parts(self) -> list[Any]:
        return [self.fast_prior.prior]

    def _modules(self) -> list[Any]:
        parts = [self.text_encoder, self.image_encoder, self.fast_prior.prior, self.unet, self.movq]
        return parts + ([self.decoder_text[1]] if self.decoder_text else [])


def _noised(scheduler: Any, timesteps: Tensor, clean: Tensor, noise: Tensor, step: int) -> Tensor:
    """Return clean latents with noise as strong as before a step; after the last there is none."""
    if step == len(timesteps):
        return clean
    noised: Tensor = scheduler.add_noise(clean, noise, timesteps[step : step + 1])
    return noised
