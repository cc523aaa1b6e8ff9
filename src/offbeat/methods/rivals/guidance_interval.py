"""Guidance interval: guidance only between two levels of noise, and off outside.

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
from offbeat.methods.rivals.denoising import Told, Walk
from offbeat.methods.rivals.prompts import subject_prompt
from offbeat.methods.settings import Method, Settings, setting
from offbeat.protocols import DenoisingBackbone
from offbeat.types import OnStep, Request, ignore_step

NAME = "guidance-interval"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidanceIntervalConfig(Settings):
    """The interval and the scale inside it, saved as they were asked."""

    method = NAME

    sigma_low: float = setting(
        0.28,
        0,
        1e9,
        help="Noise over signal at and below which there is no guidance, 0 to sigma_high.",
    )
    sigma_high: float = setting(5.42, 0, 1e9, help="The same above which there is none.")
    num_inference_steps: int | None = setting(
        None, 1, 1000, help="Denoising steps; None: those of the checkpoint."
    )
    guidance_scale: float | None = setting(
        None, 0, 1000, help="Guidance; None: that of the checkpoint."
    )

    def check(self) -> None:
        """Raise if the interval is upside down."""
        check_range("sigma_low", self.sigma_low, 0, self.sigma_high)


class GuidanceInterval(Method[GuidanceIntervalConfig]):
    """The subject, guided in the middle of its denoising."""

    name = NAME
    config_class = GuidanceIntervalConfig
    needs = DenoisingBackbone
    verbs = frozenset({"explore"})
    result = "pictures"

    @torch.no_grad()
    def draw(
        self,
        backbone: DenoisingBackbone,
        request: Request,
        *,
        judge: Any | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Tensor:
        """Return pictures of the subject, ``[N, 3, H, W]``, 0 to 1, on the CPU."""
        cfg = self.config
        text = backbone.encode_text([subject_prompt(backbone, request, "{subject}")])
        walk = Walk.of(backbone, cfg.num_inference_steps)

        def told(step: int, latents: Tensor) -> Told:
            sigma = noise_level(backbone, latents, step, walk.settings)
            inside = cfg.sigma_low < sigma <= cfg.sigma_high
            return Told(text, guidance_scale=cfg.guidance_scale if inside else 1.0)

        return walk.draw(request, start, told)


def noise_level(
    backbone: DenoisingBackbone, latents: Tensor, step: int, settings: Mapping[str, Any]
) -> float:
    """Return noise over signal before a step: ``add_noise`` is linear, and says both factors."""
    zero = torch.zeros_like(latents[:1])
    one = torch.ones_like(zero)
    signal = backbone.add_noise(one, zero, step=step, **settings).flatten()[0]
    noise = backbone.add_noise(zero, one, step=step, **settings).flatten()[0]
    return float(noise / signal.clamp_min(1e-12))
