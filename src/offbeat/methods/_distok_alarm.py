"""DisTok's collapse alarm: a decoder that ignores its latent is told by tokens that are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from offbeat.functional import cosine


def mean_distance(tokens: Tensor) -> float:
    """Return the mean of one minus the cosine over all pairs of rows, ``[M, E]``, M >= 2."""
    count = len(tokens)
    return 1 - float((cosine(tokens, tokens).sum() - count) / (count * (count - 1)))


def read_distances(decoded: Tensor, num_known: int, latent_std: Tensor) -> dict[str, Any]:
    """Return how far apart decoded tokens are, and how wide their latents spread.

    Args:
        decoded: Tokens of the known words, then those of pairs, ``[M, E]``.
        num_known: How many are of words.
        latent_std: Of their latents, ``[latent]``.
    """
    words, pairs = decoded[:num_known], decoded[num_known:]
    return {
        "class_distance": mean_distance(words),
        "pair_distance": mean_distance(pairs) if len(pairs) > 1 else None,
        "latent_spread": float(latent_std.mean()),
    }


def warnings_of(
    reading: Mapping[str, Any], *, min_token_distance: float, is_pool_empty: bool
) -> list[str]:
    """Return what a user must know of a training, from its last reading."""
    found = []
    for name, what in (("class_distance", "known words"), ("pair_distance", "pairs")):
        distance = reading[name]
        if distance is not None and distance < min_token_distance:
            found.append(
                f"collapse: decoded tokens of {what} are {distance:.3f} apart in the mean, under "
                f"{min_token_distance:g}: the decoder ignores its latent; lower learning_rate, or "
                "raise the cosines at which losses stop"
            )
    if is_pool_empty:
        found.append(
            "no novel concept was admitted to the pool: train for longer, lower estimate_every, "
            "or raise max_known_probability"
        )
    return found
