"""The losses of DisTok, and its rule for what joins the pool of concepts.

Source: DisTok, arXiv:2505.03667.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from offbeat.core.functional import truncated_cosine_loss


def fusion_loss(
    adaptive: Tensor,
    restrictive: Tensor,
    aesthetic: Tensor | None,
    *,
    max_restrictive_cosine: float,
    max_aesthetic_cosine: float,
    widths: Sequence[int] = (),
) -> Tensor:
    """Return L_mix of each sample, the orders of its pair averaged; lower is better.

    Args:
        adaptive: Text embeddings of the prompt with each token, ``[B, D]``; carries the gradient.
        restrictive: Of the pair's prompts, one for each order, ``[B, orders, D]``.
        aesthetic: Of the aesthetic prompt, ``[1, D]``; None leaves its term out.
        max_restrictive_cosine: eps1, above which there is no pull, -1 to 1.
        max_aesthetic_cosine: eps2.
        widths: Of the text encoders' vectors side by side; their cosines are averaged.

    Returns:
        ``[B]``, 0 to 4.

    Source: DisTok, arXiv:2505.03667, the truncated mixture loss.
    """
    loss = truncated_cosine_loss(
        restrictive, adaptive[:, None], threshold=max_restrictive_cosine, widths=widths
    ).mean(dim=1)
    if aesthetic is None:
        return loss
    return loss + truncated_cosine_loss(
        adaptive, aesthetic, threshold=max_aesthetic_cosine, widths=widths
    )


def consistency_loss(adaptive: Tensor, target: Tensor, *, widths: Sequence[int] = ()) -> Tensor:
    """Return L_cst of each sample, ``[B]``: one minus the cosine to its entry's text, ``[B, D]``.

    Source: DisTok, arXiv:2505.03667, distribution consistency.
    """
    return truncated_cosine_loss(adaptive, target.detach(), threshold=1.0, widths=widths)


def latent_regulariser(latents: Tensor, *, over: str = "batch") -> Tensor:
    """Return L_reg of latents, ``[B, latent]``: squared mean over variance; no scale changes it.

    Args:
        latents: Of one update.
        over: ``batch``: mean and variance over the samples, the variance averaged over the
            coordinates. ``per_sample``: both over the coordinates of each latent.

    Source: DisTok, arXiv:2505.03667; over what, it does not say.
    """
    dim = 0 if over == "batch" else 1
    mean = latents.mean(dim=dim)
    variance = (latents - latents.mean(dim=dim, keepdim=True)).square().mean(dim=dim)
    if over == "batch":
        return mean.square().sum() / (variance.mean() + 1e-6)
    return (mean.square() / (variance + 1e-6)).mean()


def total_loss(
    fusion: Tensor,
    consistency: Tensor,
    regulariser: Tensor,
    *,
    alpha: float,
    beta: float,
    gamma: float,
) -> Tensor:
    """Return L_total of one update: each sample has either the mixture or the consistency loss.

    Args:
        fusion: L_mix of the samples of that task, ``[B1]``.
        consistency: L_cst of the others, ``[B2]``.
        regulariser: L_reg, scalar.
        alpha: Weight of the first.
        beta: Of the second.
        gamma: Of the third.

    Source: DisTok, arXiv:2505.03667, the total loss.
    """
    count = len(fusion) + len(consistency)
    return (alpha * fusion.sum() + beta * consistency.sum()) / count + gamma * regulariser


def is_admitted(probabilities: Tensor, *, max_known_probability: float) -> Tensor:
    """Return which readings, ``[B, K]``, are like no known class: their largest is under tau."""
    return probabilities.amax(dim=-1) < max_known_probability
