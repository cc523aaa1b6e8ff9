"""The equations of CreativeSynth, one function each, numbered as in the paper.

Source: CreativeSynth, arXiv:2401.14066; where it is silent, StyleAligned, arXiv:2312.02133:
statistics over tokens, in each head, after the split.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-5
"""Added to the variance, inside the root."""


def art_bn(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Return ``x`` with the mean and deviation of ``y`` (eq. 6), or with 0 and 1 (eq. 7).

    Erratum: eq. 6 swaps the two against the text; callers give the artwork as ``y``.

    Args:
        x: ``[B, heads, L, d]``.
        y: ``[B, heads, M, d]`` or ``[1, heads, M, d]``; None is the form of one input.

    Returns:
        ``[B, heads, L, d]``.
    """
    mean, deviation = statistics(x)
    standard = (x - mean) / deviation
    if y is None:
        return standard
    other_mean, other_deviation = statistics(y)
    return standard * other_deviation + other_mean


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (eq. 8) and deviation (eq. 9) over tokens, ``[B, heads, 1, d]`` each."""
    variance, mean = torch.var_mean(x, dim=-2, keepdim=True, correction=0)
    return mean, (variance + EPSILON).sqrt()


def shared(own: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Return keys or values with those of other streams behind them (eq. 10 and 11).

    Eq. 12, the softmax over all of them, is the attention layer's own.

    Args:
        own: ``[B, heads, L, d]``.
        others: Of the same batch, each ``[B, heads, M, d]``.
    """
    return torch.cat([own, *others], dim=2)


def callback(stored: Sequence[Tensor] | Tensor, step: int, *, offset: int = 0) -> Tensor:
    """Return the latents that a pinned stream has before a step (eq. 15).

    Args:
        stored: Its inversion, from noise to clean, ``[T + 1, ...]``.
        step: 0 to T.
        offset: Of the noisiest latents, so many are skipped.
    """
    return stored[max(step, offset)]
