"""Guidance along one walk from noise to picture: plain, or by a guider that the user chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.checkpoints.guiders import GuiderSpec
from offbeat.core.functional import annealing, corrupted, guide
from offbeat.protocols import Generators


@dataclass(frozen=True, slots=True)
class Walk:
    """What a guider must know of a denoising."""

    num_inference_steps: int
    generator: Generators
    """CADS draws its noise from it, after that of the pictures."""


class Guidance:
    """Combines both halves of guidance; made anew for each walk, as guiders keep a state."""

    def __init__(self, spec: GuiderSpec | None, scale: float, walk: Walk | None) -> None:
        self._scale = scale
        self._walk = walk
        self._cads = spec.settings if spec is not None and spec.name == "cads" else None
        self._guider: Any = None
        if spec is not None and spec.name != "cads" and walk is not None:
            self._guider = spec.made(scale)
            self._at(0)
            self._guider.prepare_inputs({})  # it makes its state at step 0 alone

    def _at(self, step: int) -> None:
        assert self._walk is not None
        self._guider.set_state(step, self._walk.num_inference_steps, torch.zeros(()))

    def guides(self, step: int) -> bool:
        """Return whether this step is guided: if not, the unguided half need not be predicted."""
        if self._guider is None:
            return True
        self._at(step)
        return int(self._guider.num_conditions) > 1

    def combined(self, uncond: Tensor, cond: Tensor, step: int) -> Tensor:
        """Return the prediction, ``[B, C, h, w]``, of both halves at a step that is guided."""
        if self._guider is None:
            return guide(uncond, cond, self._scale)
        self._at(step)
        prediction: Tensor = self._guider.forward(cond, uncond).pred
        return prediction

    def alone(self, cond: Tensor, step: int) -> Tensor:
        """Return the prediction at a step that is not guided."""
        if self._guider is None:
            return cond
        self._at(step)
        prediction: Tensor = self._guider.forward(cond).pred
        return prediction

    def blurs(self, step: int) -> bool:
        """Return whether the condition is noisy at a step."""
        return self._cads is not None and self._cads["scale"] > 0 and self._gamma(step) < 1

    def _gamma(self, step: int) -> float:
        """Return the share of the condition that is signal; time is the share of steps left."""
        if self._cads is None or self._walk is None:
            return 1.0
        time = 1 - step / self._walk.num_inference_steps
        return annealing(time, tau1=self._cads["tau1"], tau2=self._cads["tau2"])

    def told(self, condition: Tensor, step: int) -> Tensor:
        """Return a condition, ``[B, ...]``, as the network is told it at a step: CADS blurs it.

        Source: Sadat et al., arXiv:2310.17347.
        """
        if not self.blurs(step):
            return condition
        assert self._cads is not None
        assert self._walk is not None
        cads, shape, streams = self._cads, condition.shape, self._walk.generator
        if isinstance(streams, Sequence):
            noise = torch.stack([torch.randn(shape[1:], generator=one) for one in streams])
        else:
            noise = torch.randn(shape, generator=streams)
        return corrupted(
            condition.float(),
            noise.to(condition.device),
            gamma=self._gamma(step),
            scale=cads["scale"],
            mixing=cads["mixing"],
        ).to(condition.dtype)


def second_half(value: Any) -> Any:
    """Return what belongs to the text of what is told to both halves, the unguided one first."""
    if isinstance(value, Tensor):
        return value.chunk(2)[1]
    if isinstance(value, dict):
        return {name: second_half(part) for name, part in value.items()}
    if isinstance(value, list):
        return [second_half(part) for part in value]
    return value
