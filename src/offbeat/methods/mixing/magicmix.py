"""MagicMix: the layout of one thing, the content of another.

A picture is noised; its first denoising steps under the content's prompt are held near the picture
by mixing in the picture itself, noised to the same level; the rest are free. So what is where comes
from the picture, and what it is from the word.
Source: Liew et al., MagicMix, arXiv:2210.16056. The paper mixes the latents and goes on from them:
our reading, from memory of it. The community port of diffusers predicts from the mixed latents and
steps from the unmixed ones; ``step_from`` is the switch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from offbeat.core.checks import check_range
from offbeat.core.rng import streams
from offbeat.errors import ConfigError
from offbeat.methods.mixing.sources import pictures_of, prompt_of, share_of
from offbeat.methods.settings import Method, Settings, setting
from offbeat.protocols import DenoisingBackbone
from offbeat.protocols.methods import Source, Takes
from offbeat.types import OnStep, Request, ignore_step

NAME = "magicmix"
StepFrom = Literal["mixed", "unmixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MagicMixConfig(Settings):
    """Settings of MagicMix, saved as they were asked; defaults are the port's, for SD 1."""

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


class MagicMix(Method[MagicMixConfig]):
    """A picture, or a word that is drawn first, made into a word's content. Nothing is learned."""

    name = NAME
    config_class = MagicMixConfig
    needs = DenoisingBackbone
    verbs = frozenset({"fuse", "sweep"})
    result = "pictures"
    takes: Takes = (("word", "picture"), ("word",))
    takes_weights = True

    @torch.no_grad()
    def mix(
        self,
        backbone: DenoisingBackbone,
        request: Request,
        sources: Sequence[Source],
        *,
        pictures: Sequence[Tensor] | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Tensor:
        """Return pictures with the layout of the first source and the content of the second.

        Args:
            backbone: Frozen.
            request: The seed, the number of pictures, the shares, and a template with
                ``{subject}`` for the content; None is the checkpoint's own.
            sources: A word or a picture, ``[3, H, W]``, 0 to 1; then a word.
            pictures: The sources as ordinary pictures, ``[N, 3, H, W]``, if drawn already.
            start: Number of the first picture.
            on_step: Unused: there is no search.

        Returns:
            ``[N, 3, H, W]``, float32, 0 to 1, on the CPU.

        Raises:
            ConfigError: If the second source is a picture.
            ShapeError: If a picture's side is no multiple of the latents' cell.
        """
        cfg, content = self.config, sources[1]
        if not isinstance(content, str):
            raise ConfigError("sources: magicmix takes its content from a word, and got a picture")
        own = cfg.mix if cfg.mix is not None else share_of(request)
        known = None if pictures is None else pictures[:1]
        (layout,) = pictures_of(backbone, request, sources[:1], known, start)
        steps: dict[str, Any] = {"num_inference_steps": cfg.num_inference_steps}
        first, free = cfg.window
        clean = backbone.encode_latents(layout.to(backbone.device))
        noise = streams(request.seed, NAME, num=request.num_images, start=start)
        # one noise for every level: the layout then walks a straight line
        drawn = torch.stack([torch.randn(clean.shape[1:], generator=one) for one in noise])

        def mixed(step: int, latents: Tensor) -> Tensor:
            if not first < step < free:
                return latents
            layout_there = backbone.add_noise(clean, drawn, step=step, **steps)
            return own * latents + (1 - own) * layout_there

        if cfg.step_from == "mixed":
            # what stands after a step is what the next one starts from
            hook: dict[str, Any] = {"after_step": lambda step, x: mixed(step + 1, x)}
        else:
            hook = {"model_input": mixed}
        latents = backbone.denoise(
            backbone.add_noise(clean, drawn, step=first, **steps),
            backbone.encode_text([prompt_of(backbone, request, content)]),
            generator=noise,
            guidance_scale=cfg.guidance_scale,
            start=first,
            **steps,
            **hook,
        )
        return backbone.decode(latents).cpu()
