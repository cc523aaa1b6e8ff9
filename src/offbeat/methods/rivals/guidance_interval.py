"""Guidance interval: use guidance only between two noise levels.

At the start it narrows what is drawn, at the end it does little and costs as much.
Source: Kynkäänniemi et al., Applying Guidance in a Limited Interval, arXiv:2404.07724. The interval
below is the one that it gives for SDXL, from memory; noise levels are ratios of noise to signal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.core.checks import check_range
from offbeat.methods.pictures import Drawing, DrawsSubject
from offbeat.methods.rivals.denoising import Steering, StepByStep
from offbeat.methods.settings import Settings, denoising_steps, guidance, setting
from offbeat.protocols import DenoisingBackbone

NAME = "guidance-interval"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidanceIntervalConfig(Settings):
    """The interval and the scale inside it."""

    method = NAME

    sigma_low: float = setting(
        0.28,
        0,
        1e9,
        help="Noise over signal at and below which there is no guidance, 0 to sigma_high.",
    )
    sigma_high: float = setting(5.42, 0, 1e9, help="The same above which there is none.")
    num_inference_steps: int | None = denoising_steps()
    guidance_scale: float | None = guidance()

    def check(self) -> None:
        """Raise if the interval is upside down."""
        check_range("sigma_low", self.sigma_low, 0, self.sigma_high)


class GuidanceInterval(DrawsSubject[GuidanceIntervalConfig]):
    """The subject, guided in the middle of its denoising."""

    name = NAME
    config_class = GuidanceIntervalConfig
    needs = DenoisingBackbone

    @torch.no_grad()
    def draw_subject(self, drawing: Drawing) -> Tensor:
        """Return pictures of the subject, guided inside the interval alone."""
        cfg, text = self.config, drawing.encode(drawing.request.subject)
        denoising = StepByStep.of(drawing, cfg.num_inference_steps)

        def steer(step: int, latents: Tensor) -> Steering:
            sigma = noise_level(drawing.backbone, latents, step, denoising.settings)
            inside = cfg.sigma_low < sigma <= cfg.sigma_high
            return Steering(text, guidance_scale=cfg.guidance_scale if inside else 1.0)

        return denoising.draw(steer)


def noise_level(
    backbone: DenoisingBackbone, latents: Tensor, step: int, settings: Mapping[str, Any]
) -> float:
    """Return noise over signal before a step, read off ``add_noise``, which is linear."""
    zeros = torch.zeros_like(latents[:1])
    ones = torch.ones_like(zeros)
    signal = backbone.add_noise(ones, zeros, step=step, **settings).flatten()[0]
    noise = backbone.add_noise(zeros, ones, step=step, **settings).flatten()[0]
    return float(noise / signal.clamp_min(1e-12))
