"""Check the inputs of a metric, and summarise its values with an interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from offbeat.core.checks import check_finite, check_range
from offbeat.core.rng import stream
from offbeat.errors import ConfigError, ImageError, PromptError, ShapeError
from offbeat.types import Better, Scores

NUM_RESAMPLES = 2000
"""Of a bootstrap interval."""
_RESAMPLES_AT_ONCE = 100
BATCH = 16
"""Pictures of one size that are encoded at once."""


def pictures(
    images: Sequence[Tensor] | Tensor | None, name: str = "images", *, at_least: int = 1
) -> list[Tensor]:
    """Return pictures as a list of ``[3, H, W]``, checked.

    Args:
        images: ``[B, 3, H, W]``, or ``[3, H, W]`` each, 0 to 1.
        name: What they are called in an error.
        at_least: So many are needed.

    Raises:
        ImageError: If there are too few.
        ShapeError: If one has another shape.
        NotFiniteError: If one holds NaN or infinity.
        RangeError: If one lies outside 0 to 1.
    """
    checked = [] if images is None else list(images)
    if len(checked) < at_least:
        raise ImageError(
            f"{name}: expected at least {at_least} picture{'s' * (at_least > 1)}, "
            f"got {len(checked)}"
        )
    for index, image in enumerate(checked):
        if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
            raise ShapeError(
                f"{name}[{index}]: expected a picture of shape [3, H, W], got {list(image.shape)}"
            )
        check_finite(f"{name}[{index}]", image)
        check_range(f"{name}[{index}]", float(image.min()), 0, 1)
        check_range(f"{name}[{index}]", float(image.max()), 0, 1)
    return [image.float() for image in checked]


def texts_for(texts: Sequence[str] | None, num: int) -> list[str]:
    """Return a text for each of ``num`` pictures.

    Raises:
        PromptError: If there is none, one is empty, or there are neither 1 nor ``num``.
    """
    if isinstance(texts, str):
        texts = [texts]
    words = list(texts or ())
    if len(words) not in (1, num):
        raise PromptError(
            f"texts: expected one for all {num} pictures or one for each, got {len(words)}"
        )
    if empty := [text for text in words if not text.strip()]:
        raise PromptError(f"texts: expected words, got {empty[0]!r}")
    return words * num if len(words) == 1 else words


def in_equal_sizes(
    images: Sequence[Tensor], encode: Callable[[Tensor], Tensor], *, batch: int = BATCH
) -> Tensor:
    """Return what ``encode`` makes of pictures, ``[B, ...]`` on the CPU, in their order.

    Pictures of one size are stacked and given to it as ``[b, 3, H, W]``, at most ``batch`` at once.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(index)
    rows: dict[int, Tensor] = {}
    with torch.no_grad():
        for members in groups.values():
            for start in range(0, len(members), batch):
                part = members[start : start + batch]
                encoded = encode(torch.stack([images[index] for index in part])).float().cpu()
                rows |= dict(zip(part, encoded, strict=True))
    return torch.stack([rows[index] for index in range(len(images))])


def bootstrap_interval(values: Sequence[float] | Tensor, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a mean; the same values give the same.

    Args:
        values: ``[n]``; with fewer than two there is no spread, and both ends are NaN.
        seed: Of the resamples, which are the same for all metrics of n pictures.
    """
    sample = torch.as_tensor(values, dtype=torch.float64)
    if len(sample) < 2:
        return (math.nan, math.nan)
    noise = stream(seed, "bootstrap")
    means = [
        sample[torch.randint(len(sample), (_RESAMPLES_AT_ONCE, len(sample)), generator=noise)].mean(
            1
        )
        for _ in range(NUM_RESAMPLES // _RESAMPLES_AT_ONCE)
    ]
    ends = torch.cat(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return (float(ends[0]), float(ends[1]))


def summarise(
    name: str,
    values: Sequence[float] | Tensor,
    *,
    better: Better,
    checkpoint: str,
    per_image: bool = True,
    note: str = "",
) -> Scores:
    """Return values with their mean and its interval.

    Raises:
        NotFiniteError: If a value is NaN or infinite: a mean of it would say nothing.
    """
    numbers = torch.as_tensor(values, dtype=torch.float64).flatten()
    check_finite(name, numbers)
    if not per_image and len(numbers) != 1:
        raise ConfigError(f"{name}: expected one value for all pictures, got {len(numbers)}")
    return Scores(
        name=name,
        values=tuple(numbers.tolist()),
        per_image=per_image,
        mean=float(numbers.mean()),
        interval=bootstrap_interval(numbers),
        better=better,
        checkpoint=checkpoint,
        note=note,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for all of them together.

    Source: Holm, A simple sequentially rejective multiple test procedure (1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, worst = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        worst = max(worst, min(1.0, p_values[at] * (len(p_values) - rank)))
        corrected[at] = worst
    return corrected
