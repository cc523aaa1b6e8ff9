"""Measures of fusion: distance of class distributions, balance, diversity."""

from __future__ import annotations

import torch
from torch import Tensor

from offbeat.core.checks import check_shape
from offbeat.core.functional import balance_reward, distribution_kl

__all__ = ["balance_reward", "distribution_kl", "vendi_score"]


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
