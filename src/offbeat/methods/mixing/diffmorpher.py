"""DiffMorpher: a smooth path between two pictures, inside the denoising.

Each picture gets LoRA factors of its own and is inverted under them. Between the two, factors,
noise and text are interpolated; attention in the U-Net's last half takes keys and values from both.
Source: Zhang et al., DiffMorpher, arXiv:2312.07409, written from an account of it; its code, which
is not free to use, was not read. Ours: factors are interpolated by their product; AdaIN is of the
clean latents; steps are made equal by the distance of the autoencoder's latents, or any other that
is given: LPIPS needs weights of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offbeat.core.rng import streams
from offbeat.errors import ConfigError
from offbeat.methods.mixing.morphing import (
    Ends,
    PerceptualDistance,
    equal_steps,
    fit_lora,
    lora_rows,
    text_rows,
)
from offbeat.methods.mixing.sources import pictures_of, prompt_of, share_of
from offbeat.methods.settings import Method, Settings, setting
from offbeat.protocols import PaintingBackbone
from offbeat.protocols.methods import Source, Takes
from offbeat.types import OnStep, Request, ignore_step

NAME = "diffmorpher"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffMorpherConfig(Settings):
    """Settings of DiffMorpher, saved as they were asked; defaults as published, for SD 2.1."""

    method = NAME

    rank: int = setting(16, 1, 1024, help="Rank of the LoRA factors.")
    num_steps: int = setting(
        200, 0, 1_000_000, help="Optimizer steps of each picture's factors; 0 fits none."
    )
    learning_rate: float = setting(2e-4, 1e-12, 100, help="Of the LoRA factors.")
    num_inference_steps: int = setting(50, 1, 1000, help="Of the inversion, and of drawing.")
    num_refinements: int = setting(
        0, 0, 100, help="Of the inversion: times that each prediction is made again."
    )
    guidance_scale: float = setting(
        1.0, 0, 1000, help="Of inversion and drawing; 1 is off, and the most exact."
    )
    attention_share: float = setting(
        0.6, 0, 1, help="lambda: share of the first steps that interpolate attention."
    )
    own_attention: float = setting(
        0.0, 0, 1, help="beta: what a frame keeps of its own keys and values there, 0 to 1."
    )
    adain: bool = setting(
        True, help="Whether channels of the latents take the mean and spread between both ends."
    )
    reschedule: bool = setting(
        True, help="Whether a path is drawn twice, the second time in steps that look equal."
    )
    prompts: tuple[str, ...] = setting(
        (), help="Of the two sources; none: a word's own prompt, and of a picture the empty one."
    )
    frame_batch_size: int = setting(
        8, 3, 100_000, help="Frames drawn at once, the two ends among them, 3 or more."
    )

    def check(self) -> None:
        """Raise unless there are two prompts or none."""
        if len(self.prompts) not in (0, 2):
            raise ConfigError(f"prompts: expected two texts or none, got {self.prompts!r}")


class DiffMorpher(Method[DiffMorpherConfig]):
    """Paths between two pictures, or words that are drawn first; ``mix`` is one point of a path."""

    name = NAME
    config_class = DiffMorpherConfig
    needs = PaintingBackbone
    verbs = frozenset({"fuse", "sweep"})
    result = "pictures"
    takes: Takes = (("word", "picture"), ("word", "picture"))
    takes_weights = True

    def __init__(
        self,
        config: DiffMorpherConfig | None = None,
        *,
        distance: PerceptualDistance | None = None,
    ) -> None:
        """Take settings, and a distance of pictures in place of that of their latents."""
        self.config = config or DiffMorpherConfig()
        self._distance = distance

    @property
    def num_steps(self) -> int:
        """Reports: the steps of fitting."""
        return self.config.num_steps

    def mix(
        self,
        backbone: PaintingBackbone,
        request: Request,
        sources: Sequence[Source],
        *,
        pictures: Sequence[Tensor] | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Tensor:
        """Return one point of each path, where the second source has its share: a half, the hybrid.

        Args:
            backbone: Frozen.
            request: The seed, the number of pictures, the shares, and a template with
                ``{subject}`` for words.
            sources: Words or pictures, ``[3, H, W]``, 0 to 1. Of two pictures all paths are nearly
                the same one: they differ by the noise that their factors are fitted with.
            pictures: The sources as ordinary pictures, ``[N, 3, H, W]``, if drawn already.
            start: Number of the first picture.
            on_step: Told each step of fitting.

        Returns:
            ``[N, 3, H, W]``, float32, 0 to 1, on the CPU.
        """
        ends = self.ends(backbone, request, sources, pictures, start, on_step)
        shares = torch.full((request.num_images, 1), share_of(request))
        return self.frames(backbone, ends, shares)[:, 0]

    def morph(
        self,
        backbone: PaintingBackbone,
        request: Request,
        sources: Sequence[Source],
        *,
        num: int,
        pictures: Sequence[Tensor] | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Tensor:
        """Return ``num`` frames of each path, 2 or more, as ``[N, F, 3, H, W]``, ends drawn anew.

        The shares of the request are not read; the rest is as in ``mix``.
        """
        ends = self.ends(backbone, request, sources, pictures, start, on_step)
        shares = torch.linspace(0, 1, num).expand(request.num_images, -1)
        found = self.frames(backbone, ends, shares)
        if not self.config.reschedule or num < 3:
            return found
        far = [self._far(backbone, row[:-1], row[1:]) for row in found]
        rows = zip(shares, far, strict=True)
        return self.frames(backbone, ends, torch.stack([equal_steps(*row) for row in rows]))

    def ends(
        self,
        backbone: PaintingBackbone,
        request: Request,
        sources: Sequence[Source],
        pictures: Sequence[Tensor] | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Ends:
        """Fit factors to both pictures of each pair, and invert them under these."""
        cfg, count = self.config, request.num_images
        with torch.no_grad():
            both = torch.cat(pictures_of(backbone, request, sources, pictures, start))
            both = both.to(backbone.device)
            prompts = cfg.prompts or [
                prompt_of(backbone, request, one) if isinstance(one, str) else "" for one in sources
            ]
            text = backbone.encode_text([p for p in prompts for _ in range(count)])
            latents = backbone.encode_latents(both)
        noise = [
            one
            for end in range(2)
            for one in streams(request.seed, NAME, end, num=count, start=start)
        ]
        lora = fit_lora(
            backbone,
            latents,
            text,
            rank=cfg.rank,
            num_steps=cfg.num_steps,
            learning_rate=cfg.learning_rate,
            noise=noise,
            on_step=on_step,
        )
        with torch.no_grad(), backbone.adapted(lora):
            way = backbone.invert(
                both,
                text,
                num_inference_steps=cfg.num_inference_steps,
                guidance_scale=cfg.guidance_scale,
                num_refinements=cfg.num_refinements,
            )
        halves = torch.arange(count), torch.arange(count, 2 * count)
        return Ends(
            clean=(latents[:count], latents[count:]),
            noise=(way[0][:count], way[0][count:]),
            texts=(text_rows(text, halves[0]), text_rows(text, halves[1])),
            lora=(lora_rows(lora, halves[0]), lora_rows(lora, halves[1])),
            num_inference_steps=cfg.num_inference_steps,
            guidance_scale=cfg.guidance_scale,
            blended_steps=round(cfg.attention_share * cfg.num_inference_steps),
            own_attention=cfg.own_attention,
            adain=cfg.adain,
        )

    @torch.no_grad()
    def frames(self, backbone: PaintingBackbone, ends: Ends, shares: Tensor) -> Tensor:
        """Return pictures at ``shares`` of the second end, ``[N, F]``, as ``[N, F, 3, H, W]``."""
        inner = self.config.frame_batch_size - 2
        pairs = max(1, self.config.frame_batch_size // (shares.shape[1] + 2))
        drawn = []
        for rows in torch.arange(len(shares)).split(pairs):
            parts = shares[rows].split(inner, dim=1)
            drawn.append(torch.cat([ends.draw(backbone, rows, part) for part in parts], dim=1))
        return torch.cat(drawn)

    @torch.no_grad()
    def _far(self, backbone: PaintingBackbone, images: Tensor, others: Tensor) -> Tensor:
        """Return how different pictures look, ``[B]``."""
        if self._distance is not None:
            return self._distance(images, others)
        one, other = (backbone.encode_latents(part).cpu() for part in (images, others))
        return (one - other).flatten(1).square().mean(dim=1).sqrt()
