"""MagicMix: combine the layout of one source with the content of another.

A picture is noised; its first denoising steps under the content's prompt are held near the picture
by mixing in the picture itself, noised to the same level; the rest are free. So what is where comes
from the picture, and what it is from the word.
Source: Liew et al., MagicMix, arXiv:2210.16056. The paper mixes the latents and goes on from them:
our reading, from memory of it. The community port of diffusers predicts from the mixed latents and
steps from the unmixed ones; ``step_from`` is the switch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from offbeat.core.checks import check_range
from offbeat.errors import ConfigError
from offbeat.methods.pictures import Drawing, MixesSources
from offbeat.methods.settings import Settings, setting
from offbeat.protocols import DenoisingBackbone, Takes

NAME = "magicmix"
StepFrom = Literal["mixed", "unmixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MagicMixConfig(Settings):
    """Settings of MagicMix; defaults are those of diffusers' port, for SD 1."""

    method = NAME

    k_min: float = setting(
        0.3,
        0,
        1,
        help="Share of the steps, the last ones, that are free of the layout, 0 to k_max.",
    )
    k_max: float = setting(
        0.6, 0, 1, help="Share of the steps that are run: the layout is noised to their start."
    )
    mix: float | None = setting(
        None,
        0,
        1,
        help="nu: the content's part in the mixed steps; None: the second source's share.",
    )
    step_from: StepFrom = setting(
        "mixed", help="Latents a step goes on from: mixed, as in the paper, or as in the port."
    )
    num_inference_steps: int = setting(50, 1, 1000, help="Denoising steps.")
    guidance_scale: float = setting(7.5, 0, 1000, help="Guidance of the denoising; 1 is off.")

    def check(self) -> None:
        """Raise if the free steps are more than those that are run."""
        check_range("k_min", self.k_min, 0, self.k_max)

    @property
    def window(self) -> tuple[int, int]:
        """The first step that is run, and the first that is free; those between are mixed."""
        steps = self.num_inference_steps
        return steps - int(self.k_max * steps), steps - int(self.k_min * steps)


class MagicMix(MixesSources[MagicMixConfig]):
    """A picture, or a word that is drawn first, made into a word's content. Nothing is learned."""

    name = NAME
    config_class = MagicMixConfig
    needs = DenoisingBackbone
    takes: Takes = (("word", "picture"), ("word",))
    takes_weights = True

    @torch.no_grad()
    def draw_mixture(self, drawing: Drawing) -> Tensor:
        """Return pictures with the layout of the first source and the content of the second."""
        cfg, backbone, content = self.config, drawing.backbone, drawing.sources[1]
        if not isinstance(content, str):
            raise ConfigError("sources: magicmix takes its content from a word, and got a picture")
        mix = cfg.mix if cfg.mix is not None else drawing.share
        known = None if drawing.pictures is None else drawing.pictures[:1]
        (layout,) = replace(drawing, sources=drawing.sources[:1], pictures=known).parents()
        steps: dict[str, Any] = {"num_inference_steps": cfg.num_inference_steps}
        first, free = cfg.window
        clean = backbone.encode_latents(layout.to(backbone.device))
        noise = drawing.streams()
        # one noise for every level: the layout then walks a straight line
        drawn = torch.stack([torch.randn(clean.shape[1:], generator=stream) for stream in noise])

        def mixed(step: int, latents: Tensor) -> Tensor:
            if not first < step < free:
                return latents
            layout_there: Tensor = backbone.add_noise(clean, drawn, step=step, **steps)
            return mix * latents + (1 - mix) * layout_there

        if cfg.step_from == "mixed":
            # what stands after a step is what the next one starts from
            hook: dict[str, Any] = {"after_step": lambda step, x: mixed(step + 1, x)}
        else:
            hook = {"model_input": mixed}
        latents = backbone.denoise(
            backbone.add_noise(clean, drawn, step=first, **steps),
            drawing.encode(content),
            generator=noise,
            guidance_scale=cfg.guidance_scale,
            start=first,
            **steps,
            **hook,
        )
        images: Tensor = backbone.decode(latents)
        return images.cpu()
