"""CreativeSynth: content of a photograph or a text, painted into an artwork without training.

Streams are denoised side by side: the artwork, pinned to its own inversion, and the pictures that
are painted, which take the statistics of its queries and keys, and its keys and values.
Source: CreativeSynth, arXiv:2401.14066. Ours: the dial ``strength``, ``variety``, and guidance
after the step, so that the artwork's stream is run once and not twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from offbeat.core.checks import check_shape
from offbeat.core.rng import stream
from offbeat.methods.creativesynth.config import NAME, CreativeSynthConfig
from offbeat.methods.creativesynth.streams import Painting
from offbeat.methods.settings import Method
from offbeat.protocols import PaintingBackbone
from offbeat.types import OnStep, Request, ignore_step


class CreativeSynth(Method[CreativeSynthConfig]):
    """Paint: a content and a text, in an artwork's hand."""

    name = NAME
    config_class = CreativeSynthConfig
    needs = PaintingBackbone
    verbs = frozenset({"paint"})
    result = "pictures"

    def inversion_settings(self) -> dict[str, Any]:
        """Return what ``invert`` depends on beside picture and checkpoint, as JSON values."""
        names = ("num_inference_steps", "inversion_guidance_scale", "num_refinements", "art_prompt")
        return {name: getattr(self.config, name) for name in names}

    def invert(self, backbone: PaintingBackbone, image: Tensor) -> Tensor:
        """Return the trajectory of a picture ``[3, H, W]``, 0 to 1: ``[T + 1, 1, C, h, w]``.

        No seed is in it.
        """
        cfg = self.config
        with torch.no_grad():
            return backbone.invert(
                image[None].to(backbone.device),
                backbone.encode_text([cfg.art_prompt]),
                num_inference_steps=cfg.num_inference_steps,
                guidance_scale=cfg.inversion_guidance_scale,
                num_refinements=cfg.num_refinements,
            )

    def reconstruct(self, backbone: PaintingBackbone, way: Tensor) -> Tensor:
        """Return the picture, ``[3, H, W]``, that an unpinned trajectory leads back to."""
        cfg = self.config
        with torch.no_grad():
            latents = backbone.denoise(
                way[0],
                backbone.encode_text([cfg.art_prompt]),
                generator=stream(0, "unused"),
                num_inference_steps=cfg.num_inference_steps,
                guidance_scale=cfg.inversion_guidance_scale,
                sampler="ddim",
            )
            return backbone.decode(latents)[0]

    def paint(
        self,
        backbone: PaintingBackbone,
        request: Request,
        art: Tensor,
        *,
        content: Tensor | None = None,
        way: Tensor | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Tensor:
        """Return ``request.num_images`` pictures, ``[N, 3, H, W]``, float32, 0 to 1.

        Picture i depends on the request's seed and i alone. The loss of a step is how far the
        artwork's stream would have left its trajectory in it (root of the mean square).

        Args:
            backbone: The checkpoint.
            request: ``prompt`` is the text, taken as it is; None is none.
            art: ``[3, H, W]``, 0 to 1, sides that are multiples of the latents' cell.
            content: The same, of the same size; None is the task without one.
            way: What ``invert`` returns of ``art``; None finds it now.
            start: Number of the first picture.
            on_step: Told each step.

        Raises:
            ShapeError: If a picture or the trajectory has another shape.
            CapabilityError: If ``with_semantic`` and the checkpoint has no IP-Adapter.
        """
        check_shape("art", art, 3, None, None)
        if content is not None:
            check_shape("content", content, *art.shape)
        with torch.no_grad():
            pinned = self._pinned(backbone, request, art, content, way)
            painting = Painting(self.config, backbone, request, art, content, pinned)
            return painting.run(start, on_step)

    def _pinned(
        self,
        backbone: PaintingBackbone,
        request: Request,
        art: Tensor,
        content: Tensor | None,
        way: Tensor | None,
    ) -> Tensor:
        """Return the trajectories of the artwork and, as third stream, of the content."""
        cfg = self.config
        steps = cfg.num_inference_steps
        clean = backbone.encode_latents(art[None].to(backbone.device))
        if not cfg.with_inversion:
            noise = torch.randn(clean.shape, generator=stream(request.seed, "art"))
            trajectory = [
                backbone.add_noise(
                    clean, noise, step=step, num_inference_steps=steps, sampler="ddim"
                )
                for step in range(steps + 1)
            ]
            pinned = [torch.stack(trajectory)]
        else:
            pinned = [self.invert(backbone, art) if way is None else way.to(backbone.device)]
        check_shape("way", pinned[0], steps + 1, *clean.shape)
        if cfg.with_content_stream and content is not None:
            pinned.append(self.invert(backbone, content))
        return torch.cat(pinned, dim=1)
