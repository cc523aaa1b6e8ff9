"""The denoising streams of a painting: start latents, prompts, guidance, and the shared loop.

Rows of the batch: pinned streams (the artwork, perhaps the content), then every picture unguided,
then every picture guided. Guidance is done here, after the step: a DDIM step is linear in the
prediction, so guiding its results is guiding its predictions, and the pinned streams, which need
no guidance, are run once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from offbeat.core.functional import guide
from offbeat.core.rng import streams
from offbeat.methods.creativesynth.attention import Sharing
from offbeat.methods.creativesynth.equations import callback
from offbeat.protocols import PaintingBackbone
from offbeat.types import OnStep, Request, Step, TextEmbeds

if TYPE_CHECKING:
    from offbeat.methods.creativesynth.config import CreativeSynthConfig

BATCH = 4
"""Pictures painted side by side if the checkpoint's card says nothing."""


class Painting:
    """One call of ``paint``: everything that all of its pictures share."""

    def __init__(
        self,
        config: CreativeSynthConfig,
        backbone: PaintingBackbone,
        request: Request,
        art: Tensor,
        content: Tensor | None,
        pinned: Tensor,
    ) -> None:
        """Read the texts and the pictures.

        Args:
            config: The settings.
            backbone: The checkpoint.
            request: Text, seed and number of pictures.
            art: ``[3, H, W]``, 0 to 1.
            content: The same, or None.
            pinned: Trajectories of the artwork and perhaps of the content, ``[T + 1, P, C, h, w]``.
        """
        self.cfg, self.backbone, self.request = config, backbone, request
        self.guided = config.guidance_scale > 1
        self.sharing = self._sharing(has_content=content is not None, num_pinned=pinned.shape[1])
        self.way = pinned
        self.pinned = pinned if self.sharing and self.sharing.num_pinned else pinned[:, :0]
        self.num_pinned = self.pinned.shape[1]
        steps, self.toward = config.num_inference_steps, max(0.0, 2 * config.strength - 1)
        kept = min(1.0, 2 * config.strength)
        self.start = round((1 - kept) * steps)
        self.clean_content = None
        if content is not None and self.toward > 0:
            self.start = round(self.toward * config.kept_content * steps)
            self.clean_content = backbone.encode_latents(content[None].to(backbone.device))
        self.texts = [
            backbone.encode_text([config.art_prompt]),
            backbone.encode_text([config.negative_prompt])
            if config.negative_prompt
            else backbone.empty_text(),
            backbone.encode_text([request.prompt or ""]),
        ]
        self.image_embeds: Tensor | None = None
        if config.with_semantic and config.semantic_scale > 0:
            shown = art if content is None else content
            self.image_embeds = backbone.encode_image(shown[None].to(backbone.device))

    def _sharing(self, *, has_content: bool, num_pinned: int) -> Sharing | None:
        """Return the edit of attention; None where it would change nothing."""
        cfg = self.cfg
        norm = cfg.art_bn_direction if cfg.with_art_bn else "off"
        share = cfg.with_shared_attention
        if cfg.art_bn_one_input == "plain" and not has_content:
            norm, share = "plain" if cfg.with_art_bn else "off", False
        if norm == "off" and not share:
            return None
        steps = cfg.num_inference_steps
        return Sharing(
            num_pinned=0 if norm == "plain" else num_pinned,
            norm=norm,
            share=share,
            layers=cfg.layers,
            steps=range(round(cfg.share_from * steps), round(cfg.share_until * steps)),
            key_shift=cfg.key_shift,
            key_scale=cfg.key_scale,
        )

    def run(self, start: int, on_step: OnStep) -> Tensor:
        """Return the pictures from number ``start`` on, ``[N, 3, H, W]``, batch by batch."""
        count = self.request.num_images
        size = int(self.backbone.card.get("decode_batch_size", BATCH))
        parts, done = [], 0
        for first in range(0, count, size):
            num = min(size, count - first)
            parts.append(self._batch(start + first, num, done, on_step))
            done += self.cfg.num_inference_steps - self.start
        return torch.cat(parts)

    def _batch(self, first: int, num: int, done: int, on_step: OnStep) -> Tensor:
        """Return pictures ``first`` to ``first + num - 1``."""
        painted = self._start_latents(first, num)
        copies = 2 if self.guided else 1
        latents = torch.cat([self._pinned_before(self.start), *[painted] * copies])
        counts = [self.num_pinned, num if self.guided else 0, num]
        embeds = self.image_embeds
        if embeds is not None:
            heard = embeds.new_tensor([0.0] * (len(latents) - num) + [1.0] * num)
            embeds = embeds * heard[:, None]
        with self._edited():
            latents = self.backbone.denoise(
                latents,
                _in_rows(self.texts, counts),
                generator=streams(self.request.seed, "unused", num=len(latents)),
                num_inference_steps=self.cfg.num_inference_steps,
                guidance_scale=1.0,
                image_embeds=embeds,
                ip_adapter_scale=self.cfg.semantic_scale,
                start=self.start,
                after_step=self._after_step(num, done, on_step),
                sampler="ddim",
            )
        return self.backbone.decode(latents[-num:])

    def _edited(self) -> AbstractContextManager[None]:
        return nullcontext() if self.sharing is None else self.backbone.edit_attention(self.sharing)

    def _after_step(self, num: int, done: int, on_step: OnStep) -> Callable[[int, Tensor], Tensor]:
        """Return what pins the streams and guides the pictures."""
        pinned, start = self.num_pinned, self.start

        def after(step: int, latents: Tensor) -> Tensor:
            held = self._pinned_before(step + 1)
            drift = float((latents[:pinned] - held).square().mean().sqrt()) if pinned else 0.0
            painted = latents[pinned:]
            if self.guided:
                uncond, cond = painted.chunk(2)
                guided = guide(uncond, cond, self.cfg.guidance_scale)
                painted = torch.cat([guided, guided])
            on_step(Step(index=done + step - start, loss=drift, values={"step": step}))
            return torch.cat([held, painted])

        return after

    def _pinned_before(self, step: int) -> Tensor:
        """Return the pinned latents before a step, ``[P, C, h, w]``."""
        return callback(self.pinned, step, offset=self.cfg.trajectory_offset)

    def _start_latents(self, first: int, num: int) -> Tensor:
        """Return where the pictures start, ``[num, C, h, w]``, at the level of ``self.start``.

        The noise in it is turned from the artwork's to the picture's own, by a right angle at the
        most, so its size stays.
        """
        cfg, clean = self.cfg, self.way[-1][:1]
        noises = streams(self.request.seed, "image", num=num, start=first)
        shape = clean.shape[1:]
        drawn = torch.stack([torch.randn(shape, generator=noise) for noise in noises]).to(clean)
        share = cfg.variety + (1 - cfg.variety) * self.toward if cfg.with_inversion else 1.0
        if share == 1 and self.start == 0 and self.clean_content is None:
            return drawn  # as the plain pipeline starts
        angle = share * math.pi / 2
        still = torch.zeros_like(drawn)
        if self.clean_content is not None:
            noise = self.way[0][:1] - self._noised(clean, still[:1], 0)
            noise = math.cos(angle) * noise + math.sin(angle) * drawn
            return self._noised(self.clean_content.expand_as(drawn), noise, self.start)
        rest = self._noised(clean, still[:1], self.start)
        kept = self.way[max(self.start, cfg.trajectory_offset)][:1] - rest
        fresh = self._noised(clean.expand_as(drawn), drawn, self.start) - rest
        return rest + math.cos(angle) * kept + math.sin(angle) * fresh

    def _noised(self, latents: Tensor, noise: Tensor, step: int) -> Tensor:
        return self.backbone.add_noise(
            latents,
            noise,
            step=step,
            num_inference_steps=self.cfg.num_inference_steps,
            sampler="ddim",
        )


def _in_rows(texts: Sequence[TextEmbeds], counts: Sequence[int]) -> TextEmbeds:
    """Return each text, of one prompt, so many times."""
    numbers = [number for number, count in enumerate(counts) for _ in range(count)]
    return TextEmbeds(
        torch.cat([texts[number].text_embeds for number in numbers]),
        torch.cat([texts[number].text_encoder_hidden_states for number in numbers]),
        torch.cat([texts[number].text_mask for number in numbers]),
        texts[0].widths,
    )
