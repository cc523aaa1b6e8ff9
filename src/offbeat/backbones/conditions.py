"""What a latent U-Net is told beside the latents, and its autoencoder's two directions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from offbeat.backbones.attention import Moment
from offbeat.backbones.guidance import Guidance, second_half
from offbeat.checkpoints.offload import runs_on
from offbeat.errors import CheckpointError, ShapeError
from offbeat.protocols import Generators
from offbeat.types import TextEmbeds


def text_conditions(
    unet: Any, halves: Sequence[TextEmbeds], size: tuple[int, int], batch: int
) -> tuple[Tensor, dict[str, Any]]:
    """Return the states that the U-Net attends to, and in SDXL what else it is told.

    Args:
        unet: Where, and in which type.
        halves: The text; with guidance what it steers from, and then the text. Each holds one
            prompt for all samples, or one for each.
        size: Height and width of the picture, in pixels.
        batch: Samples.

    Raises:
        ShapeError: If there are neither one nor ``batch`` prompts.
    """
    states = [spread(half.text_encoder_hidden_states, batch) for half in halves]
    attended = torch.cat(states).to(runs_on(unet), unet.dtype)
    if unet.config.addition_embed_type != "text_time":
        return attended, {}
    # of two encoders the U-Net hears the pooled vector of the last
    widths = halves[-1].widths
    width = widths[-1] if widths else halves[-1].text_embeds.shape[-1]
    pooled = [spread(half.text_embeds[:, -width:], batch) for half in halves]
    # original size, crop, target size: those of a picture that was neither scaled nor cropped
    sizes = torch.tensor([[*size, 0, 0, *size]], dtype=unet.dtype, device=runs_on(unet))
    return attended, {
        "text_embeds": torch.cat(pooled).to(runs_on(unet), unet.dtype),
        "time_ids": sizes.expand(len(attended), -1),
    }


@dataclass(frozen=True, slots=True)
class Predictor:
    """What a U-Net predicts under a text, guided."""

    unet: Any
    settings: dict[str, Any]
    """What it is told at every step."""
    guidance: Guidance
    guided: bool
    """Whether the unguided half is predicted too, first in the batch."""
    moment: Moment
    count: Callable[[int], None]
    """Told how many samples each evaluation has."""

    def __call__(self, latents: Tensor, timestep: Tensor, step: int) -> Tensor:
        """Return the prediction, ``[B, C, h, w]``, float32, at a timestep and its number."""
        guided = self.guided and self.guidance.guides(step)
        self.moment.step, self.moment.guided = step, guided
        shown = latents.to(self.unet.dtype)
        doubled = torch.cat([shown, shown]) if guided else shown
        self.count(len(doubled))
        predicted: Tensor = self.unet(doubled, timestep, **self._told(step, guided)).sample.float()
        if not guided:
            return self.guidance.alone(predicted, step) if self.guided else predicted
        uncond, cond = predicted.chunk(2)
        return self.guidance.combined(uncond, cond, step)

    def _told(self, step: int, guided: bool) -> dict[str, Any]:
        """Return what the network is told at a step: CADS blurs the text, in the text's half."""
        settings = self.settings
        if self.guided and not guided:
            settings = {name: second_half(value) for name, value in settings.items()}
        if not self.guidance.blurs(step):
            return settings

        def blurred(condition: Tensor) -> Tensor:
            if not guided:
                return self.guidance.told(condition, step)
            uncond, cond = condition.chunk(2)
            return torch.cat([uncond, self.guidance.told(cond, step)])

        added = dict(settings["added_cond_kwargs"] or {})
        if "text_embeds" in added:
            added["text_embeds"] = blurred(added["text_embeds"])
        states = blurred(settings["encoder_hidden_states"])
        return {**settings, "encoder_hidden_states": states, "added_cond_kwargs": added or None}


def clean_latents(
    scheduler: Any, predict: Callable[[Tensor], Tensor], latents: Tensor, timestep: Tensor
) -> Tensor:
    """Return the estimate of the clean latents, ``[B, C, h, w]``, at a timestep.

    The network sees ``alpha x0 + sigma noise`` with squares that sum to 1, however the scheduler
    scales latents between its steps: ``add_noise`` and ``scale_model_input`` are linear, and say
    both factors.

    Args:
        scheduler: Its timesteps are set; a copy, as both calls may move it.
        predict: Given what the network sees; returns what it predicts, guided.
        latents: At the timestep's noise level, as the scheduler scales them.
        timestep: ``[1]``.

    Raises:
        CheckpointError: If the network predicts something that no estimate is known for.
    """
    one, zero = latents.new_ones(1, 1, 1, 1), latents.new_zeros(1, 1, 1, 1)
    scale = scheduler.scale_model_input(one, timestep[0])
    alpha = scale * scheduler.add_noise(one, zero, timestep)
    sigma = scale * scheduler.add_noise(zero, one, timestep)
    shown = scale * latents
    predicted = predict(shown)
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return predicted
    if kind == "v_prediction":
        clean: Tensor = alpha * shown - sigma * predicted
        return clean
    if kind == "epsilon":
        clean = (shown - sigma * predicted) / alpha
        return clean
    raise CheckpointError(
        f"scheduler: expected prediction_type epsilon, v_prediction or sample, got {kind!r}"
    )


FORGETFUL = (
    "DDIM",
    "DDPM",
    "EulerDiscrete",
    "EulerAncestralDiscrete",
    "FlowMatchEulerDiscrete",
    "LCM",
    "TCD",
)
"""Schedulers whose step depends on nothing but the latents before it and the prediction there."""


def remembers_steps(scheduler: Any) -> bool:
    """Return whether a scheduler may use earlier predictions, as multistep solvers do."""
    return type(scheduler).__name__.removesuffix("Scheduler") not in FORGETFUL


def guidance_embed(unet: Any, scale: float, batch: int) -> Tensor | None:
    """Return the guidance scale as models distilled with it are told it, ``[B, width]``.

    Source: Meng et al., arXiv:2210.03142, with the constants of the latent consistency models.
    """
    width = unet.config.time_cond_proj_dim
    if width is None:
        return None
    half = width // 2
    rates = torch.exp(torch.arange(half) * -(math.log(10000.0) / (half - 1)))
    angles = 1000.0 * (scale - 1) * rates
    waves = torch.cat([angles.sin(), angles.cos(), torch.zeros(width % 2)])
    return waves.expand(batch, -1).to(runs_on(unet), unet.dtype)


def step_settings(scheduler: Any, generator: Generators) -> dict[str, Any]:
    """Return what a pipeline passes to this scheduler's step: randomness, and no extra noise.

    The step of TCD adds noise by ``eta`` 0.3 where nothing is said; pipelines say 0.
    """
    taken = inspect.signature(scheduler.step).parameters
    settings: dict[str, Any] = {"eta": 0.0} if "eta" in taken else {}
    if "generator" in taken:
        settings["generator"] = list(generator) if isinstance(generator, Sequence) else generator
    return settings


def cut_text(text: TextEmbeds, rows: slice) -> TextEmbeds:
    """Return the prompts of some samples; one for all stays."""
    if len(text) == 1:
        return text
    return replace(
        text,
        text_embeds=text.text_embeds[rows],
        text_encoder_hidden_states=text.text_encoder_hidden_states[rows],
        text_mask=text.text_mask[rows],
    )


def check_prompts(count: int, batch: int) -> None:
    """Raise unless there is one prompt for all samples, or one for each.

    Raises:
        ShapeError: With both counts.
    """
    if count not in (1, batch):
        raise ShapeError(f"text: expected one prompt, or {batch}, got {count}")


def spread(rows: Tensor, batch: int) -> Tensor:
    """Return one row for each picture of a batch: ``[1, ...]`` or ``[B, ...]`` to ``[B, ...]``."""
    check_prompts(len(rows), batch)
    return rows.expand(batch, *rows.shape[1:])


def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Return ``images``, ``[B, 3, H, W]``, float32, 0 to 1, of ``latents``."""
    scaled = latents.to(runs_on(vae), vae.dtype)
    mean, spread = _latent_stats(vae, scaled)
    scaled = scaled * spread / vae.config.get("scaling_factor", 1.0) + mean
    frames = "temperal_downsample" in vae.config  # a picture is a film of one frame
    decoded = vae.decode(scaled[:, :, None] if frames else scaled).sample
    decoded = decoded[:, :, 0] if frames else decoded
    images: Tensor = (decoded.float() / 2 + 0.5).clamp(0, 1)
    return images


def encode_pictures(vae: Any, images: Tensor) -> Tensor:
    """Return the most probable ``latents``, ``[B, C, h, w]``, float32, of ``images``, 0 to 1."""
    pixels = (images * 2 - 1).to(runs_on(vae), vae.dtype)
    frames = "temperal_downsample" in vae.config
    encoded = vae.encode(pixels[:, :, None] if frames else pixels)
    # an autoencoder of SANA draws nothing
    latents = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mode()
    latents = latents[:, :, 0] if frames else latents
    mean, spread = _latent_stats(vae, latents)
    scaled: Tensor = (latents - mean) * vae.config.get("scaling_factor", 1.0) / spread
    return scaled.float()


def _latent_stats(vae: Any, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Return mean and spread of the latents, of autoencoders that say them, or say a shift."""
    shift = getattr(vae.config, "shift_factor", None)
    if shift is not None:
        return float(shift), 1.0
    stats = [getattr(vae.config, name, None) for name in ("latents_mean", "latents_std")]
    if any(values is None for values in stats):
        return 0.0, 1.0
    mean, spread = (torch.tensor(values).view(1, -1, 1, 1).to(like) for values in stats)
    return mean, spread
