"""A picture to begin from in the place of noise, and a mask of what may change in it.

Both are as in diffusers' pipelines for pictures to pictures and for inpainting with an ordinary
network: nothing is learned for it. Outside the mask, latents are put back after each step, with
noise of its level, so edges may show, and what is kept is as exact as the autoencoder.
Source: Meng et al., SDEdit, arXiv:2108.01073; Lugmayr et al., RePaint, arXiv:2201.09865, without
its returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from offbeat.core.checks import check_range, check_shape
from offbeat.errors import RangeError, ShapeError

STRENGTH = 0.8
"""How far a picture is drawn anew where nothing is said; with a mask all of it is."""


@dataclass(frozen=True, slots=True)
class Redraw:
    """What is drawn anew, and how far."""

    images: Tensor
    """``[1, 3, H, W]``, 0 to 1, sides that are multiples of the checkpoint's ``grid``."""
    strength: float | None = None
    """Share of the denoising steps that are run, above 0 to 1; None is 0.8, or 1 with a mask."""
    mask: Tensor | None = None
    """``[1, 1, H, W]``, above 0.5 where it is drawn anew."""

    def __post_init__(self) -> None:
        check_shape("images", self.images, 1, 3, None, None)
        if self.strength is not None:
            check_range("strength", self.strength, 0, 1)
        if self.mask is not None:
            check_shape("mask", self.mask, 1, 1, *self.images.shape[-2:])

    @property
    def share(self) -> float:
        """The strength, whoever chose it."""
        if self.strength is not None:
            return self.strength
        return STRENGTH if self.mask is None else 1.0

    def start(self, num_inference_steps: int, *, whole_up: bool = False) -> int:
        """Return the first denoising step that is run.

        Args:
            num_inference_steps: Of the whole way.
            whole_up: Whether a part of a step counts, as in pipelines of flow models.

        Raises:
            RangeError: If no step is left.
        """
        steps = num_inference_steps * self.share
        count = min(math.ceil(steps) if whole_up else int(steps), num_inference_steps)
        if count < 1:
            raise RangeError(
                f"strength: expected {1 / num_inference_steps:.2g} or more with "
                f"{num_inference_steps} steps, got {self.share:g}: nothing would be drawn"
            )
        return num_inference_steps - count


class Redrawing:
    """One batch that is drawn anew: where it begins, and what is put back after each step."""

    def __init__(
        self,
        redraw: Redraw,
        clean: Tensor,
        noise: Tensor,
        noised: Callable[[Tensor, Tensor, int], Tensor],
    ) -> None:
        """Keep what is known of it.

        Args:
            redraw: What was asked.
            clean: Latents of the picture, ``[B, C, h, w]``.
            noise: Standard normal, of their shape.
            noised: Adds noise as strong as before a step.
        """
        self._clean, self._noise, self._noised = clean, noise, noised
        self._area: Tensor | None = None
        if redraw.mask is not None:
            area = torch.nn.functional.interpolate((redraw.mask > 0.5).float(), clean.shape[-2:])
            self._area = area.to(clean)

    def latents(self, start: int, noise_scale: float) -> Tensor:
        """Return where the walk begins; with a mask that is all new, at pure noise."""
        if self._area is not None and start == 0:
            return self._noise * noise_scale
        return self._noised(self._clean, self._noise, start)

    def after_step(self, step: int, latents: Tensor) -> Tensor:
        """Return the latents after a step, what lies outside the mask put back."""
        if self._area is None:
            return latents
        kept = self._noised(self._clean, self._noise, step + 1)
        return (1 - self._area) * kept + self._area * latents


def check_grid(images: Tensor, grid: int) -> None:
    """Refuse pictures whose sides the network cannot read.

    Raises:
        ShapeError: With what they should be multiples of.
    """
    check_shape("images", images, None, 3, None, None)
    if any(side % grid for side in images.shape[-2:]):
        raise ShapeError(
            f"images: expected sides that are multiples of {grid}, got "
            f"{list(images.shape[-2:])}; resize or crop them first"
        )
