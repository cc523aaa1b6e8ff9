"""How far raters agree: Krippendorff's alpha.

Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011); the coincidences of values
within units against those that chance would give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from offbeat.errors import ConfigError, NotFiniteError, ShapeError

Level = Literal["nominal", "ordinal", "interval"]
"""What values mean: names, ranks, or numbers whose differences count."""


def krippendorff_alpha(
    ratings: Sequence[Sequence[float]] | Tensor, level: Level = "interval"
) -> float:
    """Return how far raters agree beyond chance: 1 is wholly, 0 is as by chance, below is worse.

    Args:
        ratings: ``[R, U]``, what each of R raters gave to each of U units; NaN is no rating.
        level: How two different values differ.

    Returns:
        At most 1. NaN where it is not defined: no unit has two ratings, or all values are equal, so
        that nothing shows whether the raters could have differed.

    Raises:
        ShapeError: If ``ratings`` is no table.
        NotFiniteError: If a rating is infinite.
        ConfigError: If the level is unknown.

    >>> krippendorff_alpha([[1, 2, 3, 4], [1, 2, 3, 4]])
    1.0
    """
    if level not in get_args(Level):
        raise ConfigError(f"level: expected one of {', '.join(get_args(Level))}, got {level!r}")
    table = _table(ratings)
    present = ~table.isnan()
    table = table[:, present.sum(dim=0) >= 2]  # a unit with one rating says nothing of agreement
    present = ~table.isnan()
    values, codes = table[present].unique(return_inverse=True)
    if len(values) < 2:
        return math.nan
    units = present.nonzero()[:, 1]
    counts = torch.zeros(table.shape[1], len(values), dtype=torch.float64)
    counts.index_put_((units, codes), torch.ones(len(codes), dtype=torch.float64), accumulate=True)
    per_unit = counts.sum(dim=1, keepdim=True)  # [U, 1]
    pairs = torch.einsum("uc,uk,u->ck", counts, counts, 1 / (per_unit[:, 0] - 1))
    pairs -= torch.diag((counts / (per_unit - 1)).sum(dim=0))  # no rating is paired with itself
    totals = pairs.sum(dim=1)
    differences = _differences(values, totals, level)
    observed = (pairs * differences).sum()
    expected = (totals[:, None] * totals[None, :] * differences).sum() / (totals.sum() - 1)
    return float(1 - observed / expected)


def _table(ratings: Sequence[Sequence[float]] | Tensor) -> Tensor:
    try:
        table = torch.as_tensor(ratings, dtype=torch.float64)
    except (ValueError, TypeError) as error:
        raise ShapeError(
            f"ratings: expected a row of equal length for each rater ({error})"
        ) from error
    if table.ndim != 2:
        raise ShapeError(f"ratings: expected shape [raters, units], got {list(table.shape)}")
    if bool(table.isinf().any()):
        raise NotFiniteError("ratings: expected numbers or NaN, got infinity")
    return table


def _differences(values: Tensor, totals: Tensor, level: Level) -> Tensor:
    """Return the squared difference of each two values, ``[V, V]``; values ascend."""
    if level == "nominal":
        return 1 - torch.eye(len(values), dtype=torch.float64)
    if level == "interval":
        return (values[:, None] - values[None, :]).square()
    ranks = totals.cumsum(dim=0) - totals / 2  # how many ratings lie below, half of its own counted
    return (ranks[:, None] - ranks[None, :]).square()
