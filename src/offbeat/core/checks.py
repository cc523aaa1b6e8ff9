"""Check arguments, and say what was expected and what came."""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from torch import Tensor

from offbeat.errors import ConfigError, NotFiniteError, RangeError, ShapeError


def check_shape(name: str, tensor: Tensor, *shape: int | None) -> None:
    """Raise unless ``tensor`` has this shape; ``None`` stands for any length.

    Raises:
        ShapeError: With the shape that came and the one expected.
    """
    fits = tensor.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ShapeError(f"{name}: expected shape [{wanted}], got {list(tensor.shape)}")


def check_range(
    name: str,
    value: float,
    low: float,
    high: float,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raise unless ``value`` lies between ``low`` and ``high``; NaN never does.

    Raises:
        RangeError: With the value that came and the interval expected.
    """
    inside = isinstance(value, Real)
    if inside:
        inside = (value > low if open_low else value >= low) and (
            value < high if open_high else value <= high
        )
    if not inside:
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        raise RangeError(f"{name}: expected a number in {interval}, got {value!r}")


def check_whole(name: str, value: object, low: int = 1, high: int | None = None) -> None:
    """Raise unless ``value`` is a whole number of at least ``low`` and at most ``high``.

    Raises:
        ConfigError: With the value that came and the range expected.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):  # type: ignore[operator]
        wanted = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{name}: expected a whole number {wanted}, got {value!r}")


def check_gradients(method: str, backbone: Any) -> None:
    """Raise if a method would follow gradients through weights of float16.

    Small gradients are zero in it, and large ones infinite; bfloat16 has the range of float32.

    Raises:
        ConfigError: With the types that will do.
    """
    if getattr(backbone, "dtype", None) == torch.float16:
        raise ConfigError(
            f"dtype: {method} follows gradients, and those of float16 vanish or overflow; load "
            f"{backbone.name} with --dtype bfloat16, which is as fast, or --dtype float32"
        )


def check_finite(name: str, tensor: Tensor, *, hint: str = "") -> None:
    """Raise if ``tensor`` holds NaN or infinity.

    Args:
        name: For the error.
        tensor: Of any shape.
        hint: What to do, for the error.

    Raises:
        NotFiniteError: With the number of bad entries.
    """
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise NotFiniteError(
            f"{name}: expected finite numbers, got NaN or infinity in {bad} of {tensor.numel()}"
            f"{hint and '; '}{hint}"
        )
