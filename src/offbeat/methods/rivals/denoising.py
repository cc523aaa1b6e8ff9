"""Denoise with a prompt or guidance that changes from step to step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.methods.mixing.sources import noises
from offbeat.protocols import DenoisingBackbone
from offbeat.types import Request, TextEmbeds


@dataclass(frozen=True, slots=True)
class Told:
    """What one denoising step is told; None is the checkpoint's own."""

    text: TextEmbeds
    negative: TextEmbeds | None = None
    guidance_scale: float | None = None


@dataclass(frozen=True, slots=True)
class Walk:
    """The steps from noise to latents, and by which sampler they can be taken one by one."""

    backbone: Any
    num_inference_steps: int
    sampler: dict[str, Any]
    """Nothing where the checkpoint's own scheduler can be stopped and gone on with."""

    @classmethod
    def of(cls, backbone: DenoisingBackbone, num_inference_steps: int | None) -> Walk:
        """Return the walk of a checkpoint; None takes its own number of steps."""
        steps = num_inference_steps or int(backbone.card["num_inference_steps"])
        own = getattr(backbone, "sampler_in_pieces", "own")
        return cls(backbone, steps, {} if own == "own" else {"sampler": own})

    @property
    def settings(self) -> dict[str, Any]:
        """What each step is called with."""
        return {"num_inference_steps": self.num_inference_steps, **self.sampler}

    @torch.no_grad()
    def draw(self, request: Request, start: int, told: Callable[[int, Tensor], Told]) -> Tensor:
        """Return pictures, ``[N, 3, H, W]``, 0 to 1, on the CPU, from the ordinary ones' noise.

        Args:
            request: How many, and the seed.
            start: Number of the first.
            told: Given a step's number and the latents before it; returns what it is told.
        """
        noise = noises(request, start)
        latents = self.backbone.init_latents(noise, **self.settings)
        for step in range(self.num_inference_steps):
            now = told(step, latents)
            latents = self.backbone.denoise(
                latents,
                now.text,
                generator=noise,
                negative=now.negative,
                guidance_scale=now.guidance_scale,
                start=step,
                stop=step + 1,
                **self.settings,
            )
        images: Tensor = self.backbone.decode(latents)
        return images.cpu()
