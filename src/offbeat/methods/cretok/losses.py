"""The equation of CreTok.

The one without a limit, L_mix, is this one with ``theta=1``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from offbeat.core.functional import truncated_cosine_loss


def mixture_loss(
    restrictive: Tensor, adaptive: Tensor, *, theta: float, widths: Sequence[int] = ()
) -> Tensor:
    """Return the mean truncated distance of pairs, in both orders, to the one adaptive prompt.

    Args:
        restrictive: Text embeddings of ``a {t1} {t2}`` and ``a {t2} {t1}``, ``[B, 2, D]``.
        adaptive: Text embedding of the prompt with the token, ``[1, D]``; carries the gradient.
        theta: A prompt stops pulling above this cosine, -1 to 1.
        widths: Of the text encoders' vectors side by side; their cosines are averaged.

    Returns:
        Scalar, 0 to 2; lower is better.

    Source: CreTok, arXiv:2410.24160, the truncated loss.
    """
    return truncated_cosine_loss(restrictive, adaptive, threshold=theta, widths=widths).mean()
