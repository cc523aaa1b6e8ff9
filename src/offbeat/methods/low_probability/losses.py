"""The equations of low-probability exploration, one function each, numbered as in the paper.

Source: Song and Elgammal, arXiv:2601.22125.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from offbeat.core.density import AvoidCluster, Density, Support
from offbeat.core.functional import cosine


def creative_loss(image_embeds: Tensor, density: Density) -> Tensor:
    """Return mean log density of ``[B, D]``: minimised, samples go to the tail (eq. 5)."""
    return density.log_prob(image_embeds).mean()


def novelty_loss(image_embeds: Tensor, density: Density, *, radius: float) -> Tensor:
    """Return the mean squared error of the Mahalanobis distance of ``[B, D]`` to ``radius``.

    Ours: the log density has no lower end, so the published loss steps the faster the farther.
    """
    distance = density.squared_distance(image_embeds).clamp_min(1e-12).sqrt()
    return (distance - radius).square().mean()


def anchor_loss(image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    """Return one minus the cosine of ``[B, D]`` to the prompt, ``[1, D]``: ``[B]`` (eq. 6)."""
    return 1 - cosine(image_embeds, text_embeds)[:, 0]


def avoid_loss(
    image_embeds: Tensor, clusters: Sequence[AvoidCluster], *, weight: float = 1.0
) -> Tensor:
    """Return alpha times the mean log density, summed over clusters (eq. 7).

    Erratum: eq. 7 has a minus sign, which draws samples into the cluster.

    Args:
        image_embeds: ``[B, D]``.
        clusters: Of unwanted samples.
        weight: alpha. Above 0 a sample is pushed until it has left a cluster, to its floor; below
            0, eq. 7 as printed, it is drawn in from anywhere.
    """
    terms = [cluster.log_prob(image_embeds) for cluster in clusters]
    if weight > 0:
        floors = zip(terms, clusters, strict=True)
        terms = [term.clamp_min(cluster.floor) for term, cluster in floors]
    return weight * torch.stack(terms).mean(dim=1).sum() if terms else image_embeds.new_zeros(())


def total_loss(creative: Tensor, avoid: Tensor, anchor: Tensor) -> Tensor:
    """Return the sum of the three losses (eq. 8), an ablation.

    Erratum: appendix S2.4 alternates them, since no fixed weights suit their gradients.
    """
    return creative + avoid + anchor


def support_loss(image_embeds: Tensor, support: Support) -> Tensor:
    """Return the mean squared distance of ``[B, D]`` beyond what any prompt leads to.

    Ours, the third pull-back: far from one subject's samples shall be between things, not nowhere.
    """
    return support.excess(image_embeds).square().mean()
