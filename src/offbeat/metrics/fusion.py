"""How well a picture is what was mixed: distributions, balance, diversity."""

from __future__ import annotations

import torch
from torch import Tensor

from offbeat.checks import check_shape
from offbeat.functional import balance_reward

__all__ = ["balance_reward", "distribution_kl", "vendi_score"]

SMOOTHING = 1e-6
"""Added to every probability before a divergence, so that none is infinite."""


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
    wanted, found = (
        (part.double() + SMOOTHING) / (part.double() + SMOOTHING).sum(dim=-1, keepdim=True)
        for part in (asked, read)
    )
    # rounding can leave a -0
    return (wanted * (wanted.log() - found.log())).sum(dim=-1).clamp_min(0).float()


def vendi_score(features: Tensor) -> float:
    """Return the effective number of different items among n, 1 to n; higher is more varied.

    Args:
        features: ``[n, D]``, one row an item; compared by cosine.

    Source: Friedman and Dieng, The Vendi Score, arXiv:2210.02410.
    """
    check_shape("features", features, None, None)
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    values = torch.linalg.eigvalsh(unit @ unit.T / len(unit)).clamp_min(1e-12)
    return float((-(values * values.log()).sum()).exp())
