"""Pure tensor functions that several methods use."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from offbeat.core.checks import check_shape

SMOOTHING = 1e-6
"""Added to every probability before a divergence, so that none is infinite."""


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


def pair_cosine(a: Tensor, b: Tensor, *, widths: Sequence[int] = ()) -> Tensor:
    """Return the cosine of each row of ``a`` with that of ``b``.

    Args:
        a: ``[..., D]``.
        b: ``[..., D]``, of a shape that broadcasts with ``a``.
        widths: Of the vectors that lie side by side in D, one for each text encoder: their cosines
            are averaged. None is one vector.

    Returns:
        ``[...]``, -1 to 1.
    """
    sizes = list(widths) or [a.shape[-1]]
    parts = zip(a.split(sizes, dim=-1), b.split(sizes, dim=-1), strict=True)
    each = [torch.nn.functional.cosine_similarity(x, y, dim=-1, eps=1e-8) for x, y in parts]
    return torch.stack(each).mean(dim=0)


def truncated_cosine_loss(
    a: Tensor, b: Tensor, *, threshold: float | Tensor, widths: Sequence[int] = ()
) -> Tensor:
    """Return one minus the cosine of each pair of rows; no gradient above a threshold.

    Args:
        a: ``[..., D]``.
        b: ``[..., D]``, or ``[1, D]`` for all.
        threshold: The cosine above which a pair is near enough, -1 to 1.
        widths: As for ``pair_cosine``.

    Returns:
        ``[...]``, 0 to 2.

    Source: CreTok, arXiv:2410.24160; DisTok, arXiv:2505.03667.
    """
    return 1 - pair_cosine(a, b, widths=widths).clamp(max=threshold)


def balance_reward(first: Tensor, second: Tensor, *, penalty: float = 5.0) -> Tensor:
    """Return S1 + S2 - a |S1 - S2| of both parents' similarities; higher is better.

    Source: RMLer (AAAI 2026), with a = 5.
    """
    return first + second - penalty * (first - second).abs()


def slerp(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Return points on the great circle between samples, as noise is interpolated.

    Args:
        first: ``[B, ...]``.
        second: Of the same shape.
        share: The second's, 0 to 1, ``[B]``; its ends return the samples themselves.

    Source: Shoemake, Animating rotation with quaternion curves (1985); near-parallel samples are
    interpolated linearly.
    """
    spread = (len(share), *[1] * (first.ndim - 1))
    angle = pair_cosine(first.flatten(1), second.flatten(1)).clamp(-1, 1).acos()
    straight = angle.sin() < 1e-4
    sine = torch.where(straight, 1.0, angle.sin())
    one = torch.where(straight, 1 - share, ((1 - share) * angle).sin() / sine)
    two = torch.where(straight, share, (share * angle).sin() / sine)
    points = one.view(spread) * first + two.view(spread) * second
    points = torch.where(share.view(spread) == 0, first, points)
    return torch.where(share.view(spread) == 1, second, points)


def distribution_kl(asked: Tensor, read: Tensor) -> Tensor:
    """Return KL(asked || read) of each row, in nats; 0 is the best.

    Args:
        asked: Shares over K classes, ``[B, K]`` or ``[1, K]``; rows sum to 1.
        read: A judge's probabilities over the same classes, ``[B, K]``.

    Returns:
        ``[B]``, 0 or more; both sides are smoothed by 1e-6.

    Raises:
        ShapeError: If the numbers of classes differ.

    Source: DisTok, arXiv:2505.03667, its measure of alignment; the smoothing is ours.
    """
    check_shape("asked", asked, None, read.shape[-1])
    wanted, shares = (
        (part.double() + SMOOTHING) / (part.double() + SMOOTHING).sum(dim=-1, keepdim=True)
        for part in (asked, read)
    )
    # rounding can leave a -0
    return (wanted * (wanted.log() - shares.log())).sum(dim=-1).clamp_min(0).float()


def farthest_first(
    features: Tensor, num: int, *, nearest: Tensor | None = None
) -> tuple[list[int], list[float]]:
    """Return rows, each the farthest from those before it, and how far it is.

    The order does not depend on ``num``, so that a longer list only goes on.

    Args:
        features: ``[N, D]``.
        num: Rows to keep, 1 to N.
        nearest: Distance, 1 - cosine, of each row to the nearest of what is kept already, ``[N]``;
            None keeps row 0 first, at distance 2, the largest there is.

    Source: Gonzalez, Clustering to minimize the maximum intercluster distance (1985).
    """
    distances = 1 - cosine(features, features)
    kept: list[int] = []
    far: list[float] = []
    # equal distances: argmax takes the first row
    nearest = features.new_full((len(features),), 2.0) if nearest is None else nearest.clone()
    while len(kept) < num:
        row = int(nearest.argmax())
        kept.append(row)
        far.append(float(nearest[row]))
        nearest = nearest.minimum(distances[row])
        nearest[kept] = -1.0
    return kept, far


def annealing(time: float, *, tau1: float, tau2: float) -> float:
    """Return gamma, the share of the condition that is signal: 1 up to tau1, 0 from tau2 on.

    Source: CADS, arXiv:2310.17347, its piecewise-linear schedule.
    """
    if time <= tau1:
        return 1.0
    return 0.0 if time >= tau2 else (tau2 - time) / (tau2 - tau1)


def corrupted(
    condition: Tensor, noise: Tensor, *, gamma: float, scale: float, mixing: float
) -> Tensor:
    """Return a condition with noise, in part rescaled to the mean and spread of the clean one.

    Args:
        condition: ``[B, ...]``.
        noise: Standard normal, of the same shape.
        gamma: Share of signal, 0 to 1; at 1 the condition comes back as it is.
        scale: Strength of the noise.
        mixing: Share that is rescaled, 0 to 1.

    Source: CADS, arXiv:2310.17347.
    """
    if gamma == 1:
        return condition
    noisy = math.sqrt(gamma) * condition + scale * math.sqrt(1 - gamma) * noise
    axes = tuple(range(1, condition.ndim))
    mean, spread = noisy.mean(axes, keepdim=True), noisy.std(axes, keepdim=True)
    clean_mean, clean_spread = condition.mean(axes, keepdim=True), condition.std(axes, keepdim=True)
    rescaled = (noisy - mean) / spread.clamp_min(1e-8) * clean_spread + clean_mean
    return mixing * rescaled + (1 - mixing) * noisy
