"""The equations of ConceptLab, one function each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from offbeat.core.checks import check_shape
from offbeat.core.functional import cosine
from offbeat.errors import ShapeError


def prior_constraint_loss(
    image_embeds: Tensor,
    positive_embeds: Tensor,
    negative_embeds: Tensor,
    *,
    max_cosine: float,
    min_cosine: float,
    weights: Sequence[float] | None = None,
    positive_weight: float = 1.0,
) -> Tensor:
    """Pull an embedding into a subject and away from the members it knows.

    Args:
        image_embeds: Samples of the prior, ``[B, D]``; carries the gradient.
        positive_embeds: Text embeddings of the subject, ``[P, D]``, P >= 1.
        negative_embeds: Text embeddings of its members, ``[N, D]``; N may be 0.
        max_cosine: A positive stops pulling above this cosine, -1 to 1.
        min_cosine: A negative stops pushing below this cosine, -1 to 1.
        weights: Of the positives, P numbers of sum 1; None is uniform.
        positive_weight: lambda, of the pull.

    Returns:
        Scalar float32 tensor; lower is better.

    Raises:
        ShapeError: If the widths D differ, or there is not one weight for each positive.

    Source: Richardson et al., ConceptLab, arXiv:2308.02669.
    """
    check_shape("positive_embeds", positive_embeds, None, image_embeds.shape[-1])
    check_shape("negative_embeds", negative_embeds, None, image_embeds.shape[-1])
    if not 0 < (count := len(positive_embeds)) == len(weights or range(count)):
        raise ShapeError(f"weights: expected one for each of 1 or more positives, got {weights}")
    shares = image_embeds.new_tensor(weights or [1 / count] * count)
    pull = ((1 - cosine(image_embeds, positive_embeds).clamp(max=max_cosine)) @ shares).mean()
    if len(negative_embeds) == 0:
        return positive_weight * pull
    per_negative = cosine(image_embeds, negative_embeds).clamp(min=min_cosine).mean(dim=0)  # [N]
    return positive_weight * pull + 0.5 * (per_negative.mean() + per_negative.max())
