"""Pure tensor mathematics that two methods or more share."""

from __future__ import annotations

import torch
from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of every pair of rows.

    Args:
        a: ``[M, D]``.
        b: ``[N, D]``.

    Returns:
        ``[M, N]``, -1 to 1. A zero row has cosine 0 with everything.
    """
    unit_a = torch.nn.functional.normalize(a, dim=-1, eps=1e-8)
    unit_b = torch.nn.functional.normalize(b, dim=-1, eps=1e-8)
    return unit_a @ unit_b.transpose(-1, -2)


def guide(uncond: Tensor, cond: Tensor, guidance_scale: float) -> Tensor:
    """Combine the two halves of classifier-free guidance; scale 1 returns ``cond``.

    Source: Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv:2207.12598.
    """
    return uncond + guidance_scale * (cond - uncond)


def truncated_cosine_loss(a: Tensor, b: Tensor, *, threshold: float | Tensor) -> Tensor:
    """Return one minus the cosine of each pair of rows; no gradient above a threshold.

    Args:
        a: ``[B, D]``.
        b: ``[B, D]``, or ``[1, D]`` for all.
        threshold: The cosine above which a pair is near enough, -1 to 1.

    Returns:
        ``[B]``, 0 to 2.

    Source: CreTok, arXiv:2410.24160; DisTok, arXiv:2505.03667.
    """
    near = torch.nn.functional.cosine_similarity(a, b, dim=-1, eps=1e-8)
    return 1 - near.clamp(max=threshold)
