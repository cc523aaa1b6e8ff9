"""Latents of a frozen U-Net: noise to picture by its scheduler, and picture to noise by DDIM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from offbeat.backbones.attention import Moment, edited
from offbeat.backbones.conditions import Predictor, clean_latents, guidance_embed, text_conditions
from offbeat.backbones.denoiser import Denoiser, Predict
from offbeat.backbones.guidance import Guidance, Walk
from offbeat.backbones.inversion import ddim_factors
from offbeat.backbones.lora import init_lora
from offbeat.backbones.unclip.prior import check_streams
from offbeat.checkpoints.pipeline import cell_of, quiet_diffusers
from offbeat.core.checks import check_shape
from offbeat.errors import CapabilityError
from offbeat.protocols import Generators
from offbeat.types import AttentionEdit, Sampler, TextEmbeds


class LatentDenoiser(Denoiser):
    """The part of an adapter that works on latents; gradients reach them, and the text."""

    unet: Any
    _ddim: Any
    _adapter: Any
    _edits: tuple[AttentionEdit, ...] = ()

    @property
    def _network(self) -> Any:
        return self.unet

    def _scheduler_of(self, sampler: Sampler) -> Any:
        return self.scheduler if sampler == "own" else self._ddim

    def _noised(
        self, scheduler: Any, timesteps: Tensor, latents: Tensor, noise: Tensor, step: int
    ) -> Tensor:
        if step == len(timesteps):
            return latents
        level = timesteps[step : step + 1].expand(len(latents))
        noised: Tensor = scheduler.add_noise(latents, noise, level)
        return noised

    def _clean(
        self, scheduler: Any, timesteps: Tensor, latents: Tensor, predict: Predict, step: int
    ) -> Tensor:
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(step)
        level = timesteps[step : step + 1]
        return clean_latents(scheduler, lambda x: predict(x, level[0], step), latents, level)

    def _factors(self, scheduler: Any, like: Tensor) -> list[tuple[Any, Any]]:
        return ddim_factors(scheduler, like)

    @contextmanager
    def edit_attention(self, edit: AttentionEdit) -> Iterator[None]:
        """Let ``edit`` see and change every attention of the U-Net in this block.

        Blocks may be nested: the outermost edits first. The U-Net itself is touched only while it
        predicts, and put back even after an error.
        """
        before = self._edits
        self._edits = (*before, edit)
        try:
            yield
        finally:
            self._edits = before

    def init_unet_lora(self, rank: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Return fresh LoRA factors for every attention projection of the U-Net.

        A is Kaiming-uniform as in PEFT, B zero, alpha = rank: at the start they change nothing.
        """
        return init_lora(self.unet, rank, generator)

    def denoising_loss(self, latents: Tensor, text: TextEmbeds, *, generator: Generators) -> Tensor:
        """Return what training lowers: the mean squared error of each sample's prediction, ``[B]``.

        The target is what the scheduler asks for: noise, velocity or the sample.

        Args:
            latents: Clean, ``[B, C, h, w]``.
            text: One prompt for all samples, or one for each.
            generator: Draws a timestep and noise for each sample.
        """
        check_streams(generator, len(latents))
        one = [generator] * len(latents) if isinstance(generator, torch.Generator) else generator
        num = self._ddim.config.num_train_timesteps
        drawn = [
            (torch.randint(num, (1,), generator=g), torch.randn(latents.shape[1:], generator=g))
            for g in one
        ]
        timesteps = torch.cat([timestep for timestep, _ in drawn]).to(self.device)
        noise = torch.stack([part for _, part in drawn]).to(self.device)
        clean = latents.to(self.device)
        noised = self._ddim.add_noise(clean, noise, timesteps)
        target = {"epsilon": noise, "sample": clean}.get(self._ddim.config.prediction_type)
        if target is None:
            target = self._ddim.get_velocity(clean, noise, timesteps)
        predict, in_place = self._predictor(noised, text, None, 1.0)
        with in_place:
            predicted = predict(noised, timesteps, 0)
        loss: Tensor = (predicted - target).square().flatten(1).mean(dim=1)
        return loss

    def _set_timesteps(
        self, num_inference_steps: int | None, scheduler: Any, size: Sequence[int] | None = None
    ) -> Tensor:
        """Set a scheduler; a card may name the timesteps themselves, as one-step models need."""
        steps = self._num_steps(num_inference_steps, scheduler)
        own = self._card.get("timesteps")
        if own and len(own) == steps and scheduler is not self._ddim:
            with quiet_diffusers():  # it warns of every way that does not start at pure noise
                scheduler.set_timesteps(timesteps=list(own))
        else:
            scheduler.set_timesteps(steps)
        timesteps: Tensor = scheduler.timesteps
        return timesteps

    def _predictor(
        self,
        latents: Tensor,
        text: TextEmbeds,
        negative: TextEmbeds | None,
        guidance_scale: float | None,
        image_embeds: Tensor | None = None,
        ip_adapter_scale: float | None = None,
        walk: Walk | None = None,
    ) -> tuple[Predictor, AbstractContextManager[None]]:
        """Return what predicts, and the block in which it must run: adapter and edits in place."""
        check_shape("latents", latents, None, self.unet.config.in_channels, None, None)
        batch, moment = len(latents), Moment()
        scale = self._scale(guidance_scale)
        guided = scale > 1 and self.unet.config.time_cond_proj_dim is None
        halves = [self.empty_text() if negative is None else negative, text] if guided else [text]
        halves = self._one_length(halves)
        cell = cell_of(self.vae.config)
        size = (latents.shape[-2] * cell, latents.shape[-1] * cell)
        states, told = text_conditions(self.unet, halves, size, batch)
        prompted: AbstractContextManager[None] = nullcontext()
        if image_embeds is not None:
            adapter = self._need("an image prompt", "ip_adapter", self._adapter)
            told["image_embeds"] = [adapter.conditions(image_embeds, batch, guided, self.unet)]
            own = float(self._card["ip_adapter_scale"])
            weight = own if ip_adapter_scale is None else ip_adapter_scale
            prompted = adapter.prompted(self.unet, weight)
        settings = {
            "encoder_hidden_states": states,
            "added_cond_kwargs": told or None,
            "timestep_cond": guidance_embed(self.unet, scale, batch),
        }
        predictor = Predictor(
            self.unet,
            settings,
            Guidance(self._guider, scale, walk),
            guided,
            moment,
            lambda samples: self._asked(denoiser=samples),
        )
        return predictor, self._in_place(prompted, moment)

    def _one_length(self, halves: list[TextEmbeds]) -> list[TextEmbeds]:
        """Return both halves of guidance, the shorter one with empty prompts behind it."""
        longest = max(half.text_encoder_hidden_states.shape[1] for half in halves)
        filled = []
        for half in halves:
            states = half.text_encoder_hidden_states
            if states.shape[1] < longest:
                empty = self.empty_text().text_encoder_hidden_states
                count = (longest - states.shape[1]) // empty.shape[1]
                rows = empty.expand(len(states), -1, -1)
                states = torch.cat([states, *[rows.to(states)] * count], dim=1)
                half = replace(half, text_encoder_hidden_states=states)
            filled.append(half)
        return filled

    @contextmanager
    def _in_place(self, prompted: AbstractContextManager[None], moment: Moment) -> Iterator[None]:
        # edits wrap the adapter
        with prompted, edited(self.unet, self._edits, moment), self._adapting():
            yield

    def _need(self, what: str, missing: str, part: Any) -> Any:
        if part is None:
            raise CapabilityError(what, self.name, missing, ("pocket-sd",))
        return part
