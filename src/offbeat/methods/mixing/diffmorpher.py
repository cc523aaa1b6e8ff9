"""DiffMorpher: a smooth path from one picture to another, made while denoising.

Each picture gets LoRA factors of its own and is inverted under them. Between the two, factors,
noise and text are interpolated; attention in the U-Net's last half takes keys and values from both.
Source: Zhang et al., DiffMorpher, arXiv:2312.07409, written from an account of it and of its code,
which is not free to use and was not read. Ours: steps are made equal by the distance of the
autoencoder's latents, or any other that is given: LPIPS needs weights of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offbeat.core.checks import check_gradients
from offbeat.errors import ConfigError
from offbeat.methods.mixing.morphing import (
    Ends,
    PerceptualDistance,
    equal_steps,
    fit_lora,
    lora_rows,
)
from offbeat.methods.pictures import Drawing, MixesSources
from offbeat.methods.settings import Settings, setting
from offbeat.protocols import PaintingBackbone, Source, Takes
from offbeat.types import OnStep, Request, ignore_step

NAME = "diffmorpher"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffMorpherConfig(Settings):
    """Settings of DiffMorpher; defaults as published, for SD 2.1."""

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
        True,
        help="Whether channels of the noise take the mean and spread between both ends.",
    )
    lora_blend: str = setting(
        "factors",
        choices=("factors", "product"),
        help="How LoRA is interpolated: A and B each for itself, as published, or their product.",
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


class DiffMorpher(MixesSources[DiffMorpherConfig]):
    """Paths between two pictures, or words that are drawn first; ``mix`` is one point of a path.

    ``on_step`` is told each step of fitting.
    """

    name = NAME
    config_class = DiffMorpherConfig
    needs = PaintingBackbone
    takes: Takes = (("word", "picture"), ("word", "picture"))
    takes_weights = True
    gradient_verbs = MixesSources.verbs

    def __init__(
        self,
        config: DiffMorpherConfig | None = None,
        *,
        distance: PerceptualDistance | None = None,
    ) -> None:
        """Take settings, and a distance of pictures in place of that of their latents."""
        super().__init__(config)
        self._distance = distance

    @property
    def num_steps(self) -> int:
        """Reports: the steps of fitting."""
        return self.config.num_steps

    def draw_mixture(self, drawing: Drawing) -> Tensor:
        """Return one point of each path, where the second source has its share: a half, the hybrid.

        Of two pictures all paths are nearly the same one: they differ by the noise that their
        factors are fitted with.
        """
        shares = torch.full((drawing.num, 1), drawing.share)
        return self.frames(drawing.backbone, self.ends(drawing), shares)[:, 0]

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
        ends = self.ends(
            Drawing(
                method=NAME,
                backbone=backbone,
                request=request,
                start=start,
                on_step=on_step,
                sources=sources,
                pictures=pictures,
            )
        )
        shares = torch.linspace(0, 1, num).expand(request.num_images, -1)
        frames = self.frames(backbone, ends, shares)
        if not self.config.reschedule or num < 3:
            return frames
        distances = [self._distances(backbone, row[:-1], row[1:]) for row in frames]
        rows = zip(shares, distances, strict=True)
        return self.frames(backbone, ends, torch.stack([equal_steps(*row) for row in rows]))

    def ends(self, drawing: Drawing) -> Ends:
        """Fit factors to both pictures of each pair, and invert them under these."""
        cfg, count, backbone = self.config, drawing.num, drawing.backbone
        check_gradients(NAME, backbone)
        with torch.no_grad():
            both = torch.cat(drawing.parents()).to(backbone.device)
            prompts = cfg.prompts or [
                drawing.prompt(source) if isinstance(source, str) else ""
                for source in drawing.sources
            ]
            text = backbone.encode_text([p for p in prompts for _ in range(count)])
            latents = backbone.encode_latents(both)
        lora = fit_lora(
            backbone,
            latents,
            text,
            rank=cfg.rank,
            num_steps=cfg.num_steps,
            learning_rate=cfg.learning_rate,
            noise=[*drawing.streams(0), *drawing.streams(1)],
            on_step=drawing.on_step,
        )
        with torch.no_grad(), backbone.adapted(lora):
            way = backbone.invert(
                both,
                text,
                num_inference_steps=cfg.num_inference_steps,
                guidance_scale=cfg.guidance_scale,
                num_refinements=cfg.num_refinements,
            )
        first, second = slice(count), slice(count, None)
        return Ends(
            noise=(way[0][first], way[0][second]),
            texts=(text[first], text[second]),
            lora=(lora_rows(lora, first), lora_rows(lora, second)),
            num_inference_steps=cfg.num_inference_steps,
            guidance_scale=cfg.guidance_scale,
            blended_steps=round(cfg.attention_share * cfg.num_inference_steps),
            own_attention=cfg.own_attention,
            adain=cfg.adain,
            lora_blend=cfg.lora_blend,
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
    def _distances(self, backbone: PaintingBackbone, images: Tensor, others: Tensor) -> Tensor:
        """Return how different pictures look, ``[B]``."""
        if self._distance is not None:
            return self._distance(images, others)
        first, second = (backbone.encode_latents(part).cpu() for part in (images, others))
        return (first - second).flatten(1).square().mean(dim=1).sqrt()
