"""CADS: noise on the text's embedding while a picture is made, most at the start, none at the end.

Early steps decide what is where; a condition that is noisy there lets more happen, and late steps
under the clean one keep it the subject.
Source: Sadat et al., Condition-Annealed Diffusion Sampling, arXiv:2310.17347. The limits and the
strength below are those recommended for Stable Diffusion, from memory; time is our reading: the
share of the denoising steps that is left, 1 at pure noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from offbeat.core.checks import check_range
from offbeat.core.functional import annealing, corrupted
from offbeat.methods.pictures import Drawing, DrawsSubject
from offbeat.methods.rivals.denoising import Steering, StepByStep
from offbeat.methods.settings import Settings, denoising_steps, guidance, setting
from offbeat.protocols import DenoisingBackbone
from offbeat.types import TextEmbeds

NAME = "cads"


@dataclass(frozen=True, slots=True, kw_only=True)
class CadsConfig(Settings):
    """Settings of CADS."""

    method = NAME

    tau1: float = setting(0.6, 0, 1, help="Time below which the condition is clean, at most tau2.")
    tau2: float = setting(0.9, 0, 1, help="Time above which it is all noise, to 1.")
    scale: float = setting(
        0.25, 0, 1000, help="s: strength of the noise; 0 draws the ordinary pictures."
    )
    mixing: float = setting(
        1.0, 0, 1, help="psi: share of the condition rescaled to the clean one's mean and spread."
    )
    num_inference_steps: int | None = denoising_steps()
    guidance_scale: float | None = guidance()

    def check(self) -> None:
        """Raise if the times are in the wrong order."""
        check_range("tau1", self.tau1, 0, self.tau2)


class CADS(DrawsSubject[CadsConfig]):
    """The subject, under a condition that clears as the picture does."""

    name = NAME
    config_class = CadsConfig
    needs = DenoisingBackbone

    @torch.no_grad()
    def draw_subject(self, drawing: Drawing) -> Tensor:
        """Return pictures of the subject under the noisy condition."""
        cfg, noise = self.config, drawing.streams()
        text = drawing.encode(drawing.request.subject)[[0] * drawing.num]
        denoising = StepByStep.of(drawing, cfg.num_inference_steps)

        def steer(step: int, latents: Tensor) -> Steering:
            time = 1 - step / denoising.num_inference_steps
            gamma = annealing(time, tau1=cfg.tau1, tau2=cfg.tau2)
            return Steering(self._noisy(text, noise, gamma), guidance_scale=cfg.guidance_scale)

        return denoising.draw(steer)

    def _noisy(self, text: TextEmbeds, noise: list[torch.Generator], gamma: float) -> TextEmbeds:
        """Return the prompts with noise on the states and on the pooled vectors."""
        if gamma == 1 or self.config.scale == 0:
            return text

        def with_noise(clean: Tensor) -> Tensor:
            drawn = [torch.randn(clean.shape[1:], generator=stream) for stream in noise]
            settings = {"scale": self.config.scale, "mixing": self.config.mixing}
            return corrupted(clean, torch.stack(drawn).to(clean), gamma=gamma, **settings)

        return replace(
            text,
            text_embeds=with_noise(text.text_embeds),
            text_encoder_hidden_states=with_noise(text.text_encoder_hidden_states),
        )
