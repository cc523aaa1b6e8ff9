"""Denoise with a prompt or guidance that changes from step to step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.methods.pictures import Drawing
from offbeat.types import OnClean, TextEmbeds


@dataclass(frozen=True, slots=True)
class Steering:
    """What steers one denoising step; None is the checkpoint's own."""

    text: TextEmbeds
    negative: TextEmbeds | None = None
    guidance_scale: float | None = None


@dataclass(frozen=True, slots=True)
class StepByStep:
    """A denoising that is taken step by step, from the noise of the ordinary pictures."""

    drawing: Drawing
    num_inference_steps: int
    settings: dict[str, Any]
    """What each step is called with."""

    @classmethod
    def of(cls, drawing: Drawing, num_inference_steps: int | None) -> StepByStep:
        """Return the denoising of a checkpoint; None takes its own number of steps."""
        steps = num_inference_steps or int(drawing.backbone.card["num_inference_steps"])
        sampler = getattr(drawing.backbone, "sampler_in_pieces", "own")
        settings: dict[str, Any] = {"num_inference_steps": steps}
        # a scheduler that remembers earlier steps cannot be stopped and gone on with
        return cls(
            drawing, steps, settings if sampler == "own" else settings | {"sampler": sampler}
        )

    @torch.no_grad()
    def draw(
        self, steer: Callable[[int, Tensor], Steering], *, on_clean: OnClean | None = None
    ) -> Tensor:
        """Return pictures, ``[N, 3, H, W]``, 0 to 1, on the CPU.

        Args:
            steer: Given a step's number and the latents before it; returns what steers it.
            on_clean: Told each step's estimate of the clean latents, before the next is steered.
        """
        backbone, noise = self.drawing.backbone, self.drawing.noise.image
        latents = backbone.init_latents(noise, **self.settings)
        for step in range(self.num_inference_steps):
            steering = steer(step, latents)
            latents = backbone.denoise(
                latents,
                steering.text,
                generator=noise,
                negative=steering.negative,
                guidance_scale=steering.guidance_scale,
                start=step,
                stop=step + 1,
                on_clean=on_clean,
                **self.settings,
            )
        images: Tensor = backbone.decode(latents)
        return images.cpu()
