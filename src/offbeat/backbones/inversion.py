"""Inversion: the noise, and the way to it, from which a picture is drawn again.

A step of DDIM, or of Euler along a flow, is linear in the latents x and the prediction m:
x' = a x + b m. So the step before is
x = (x' - b m) / a, but for m, which depends on x: it is read at x' first, as is usual, and again at
each better x if asked to.
Sources: Song et al., arXiv:2010.02502; Dhariwal and Nichol, arXiv:2105.05233; the refinement is
that of Pan et al., arXiv:2309.04907.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from offbeat.errors import CheckpointError

Predict = Callable[[Tensor, Tensor, int], Tensor]
"""Given latents, a timestep and its number: the model's prediction, guided."""


def ddim_of(scheduler: Any) -> Any:
    """Return a DDIM scheduler of the same noise levels, without clipping, which has no inverse."""
    from diffusers import DDIMScheduler

    config = scheduler.config
    last = config.get("set_alpha_to_one", False)
    if config.get("prediction_type") == "sample":
        last = False  # a last step that takes the prediction as it is forgets where it came from
    return DDIMScheduler.from_config(
        config, clip_sample=False, thresholding=False, set_alpha_to_one=last
    )


def step_factors(alpha: Tensor, before: Tensor, prediction: str) -> tuple[Tensor, Tensor]:
    """Return (a, b) of one DDIM step ``a x + b m`` from noise level ``alpha`` to ``before``.

    Args:
        alpha: Cumulative product of alphas at the step's timestep, 0 to 1.
        before: The same where the step leads: larger.
        prediction: What the model predicts: ``epsilon``, ``v_prediction`` or ``sample``.

    Raises:
        CheckpointError: If it is another.
    """
    keep, noise = alpha.sqrt(), (1 - alpha).sqrt()
    keep_before, noise_before = before.sqrt(), (1 - before).sqrt()
    if prediction == "epsilon":
        return keep_before / keep, noise_before - keep_before * noise / keep
    if prediction == "v_prediction":
        return (
            keep_before * keep + noise_before * noise,
            noise_before * keep - keep_before * noise,
        )
    if prediction == "sample":
        return noise_before / noise, keep_before - noise_before * keep / noise
    raise CheckpointError(f"prediction_type: expected epsilon, v or sample, got {prediction!r}")


def ddim_factors(ddim: Any, like: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return (a, b) of every step of a scheduler from ``ddim_of`` whose timesteps are set.

    Args:
        ddim: The scheduler.
        like: A tensor of the type and device that is wanted.
    """
    stride = ddim.config.num_train_timesteps // ddim.num_inference_steps
    steps = []
    for timestep in ddim.timesteps.tolist():
        earlier = timestep - stride
        alpha = ddim.alphas_cumprod[timestep]
        before = ddim.alphas_cumprod[earlier] if earlier >= 0 else ddim.final_alpha_cumprod
        steps.append(step_factors(alpha.to(like), before.to(like), ddim.config.prediction_type))
    return steps


def walk_back(
    predict: Predict,
    timesteps: Tensor,
    steps: Sequence[tuple[Any, Any]],
    latents: Tensor,
    num_refinements: int,
) -> Tensor:
    """Return the trajectory, ``[T + 1, B, C, h, w]``, of steps ``a x + b m`` that ends at latents.

    Args:
        predict: The model under its text.
        timesteps: ``[T]``.
        steps: (a, b) of each.
        latents: The end, ``[B, C, h, w]``.
        num_refinements: Times that each prediction is made again at the better latents.
    """
    way = [latents]
    for step in reversed(range(len(timesteps))):
        (a, b), end = steps[step], way[-1]
        found = end
        for _ in range(1 + num_refinements):
            found = (end - b * predict(found, timesteps[step], step)) / a
        way.append(found)
    return torch.stack(way[::-1])
