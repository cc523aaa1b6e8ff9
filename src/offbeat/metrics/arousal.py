"""The arousal curve: ratings rise with novelty, and fall again when there is too much of it.

Source: Berlyne's difference of a reward and an aversion, each a sigmoid of novelty; that ratings of
generated pictures follow it is the claim of Song and Elgammal, arXiv:2601.22125; the fit is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from offbeat.core.checks import check_finite
from offbeat.errors import ConfigError, ShapeError

_GRID = 10001
_WIDTHS = (0.03, 0.1, 0.3)
"""Of the sigmoids that the fit starts from, as shares of the range of novelty."""
_STARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ArousalCurve:
    """A fitted curve of ratings over novelty."""

    kind: str
    """``berlyne`` or ``quadratic``."""
    parameters: Mapping[str, float]
    """``r a b q c d`` of the two sigmoids, or ``a0 a1 a2`` of the polynomial."""
    low: float
    """The least novelty that was rated."""
    high: float
    """The greatest."""
    peak: float | None
    """The novelty of the highest rating; None where it lies at an end: the curve has no summit."""
    squared_error: float
    """Sum over the ratings."""
    r_squared: float
    """Share of the ratings' variance that it explains; 0 where they have none."""

    def predict(self, novelty: Tensor | Sequence[float]) -> Tensor:
        """Return the curve's rating at each novelty, ``[n]``, float64."""
        x = torch.as_tensor(novelty, dtype=torch.float64)
        p = self.parameters
        if self.kind == "quadratic":
            return p["a0"] + p["a1"] * x + p["a2"] * x.square()
        reward = p["r"] * torch.sigmoid((x - p["a"]) / p["b"])
        return reward - p["q"] * torch.sigmoid((x - p["c"]) / p["d"])


def fit_arousal(
    novelty: Tensor | Sequence[float], ratings: Tensor | Sequence[float], *, kind: str = "auto"
) -> ArousalCurve:
    """Fit ``y = r / (1 + exp(-(x-a)/b)) - q / (1 + exp(-(x-c)/d))``, c > a, or a quadratic.

    Args:
        novelty: x, ``[n]``: a distance from the ordinary, or minus the log of its density.
        ratings: y, ``[n]``.
        kind: ``berlyne``, ``quadratic``, or ``auto``: the sigmoids where the corrected Akaike
            criterion says that they are worth their three more parameters, from 9 ratings on.

    Raises:
        ConfigError: If there are too few ratings, or all are of one novelty.
        ShapeError: If the numbers of the two differ.
        NotFiniteError: If one is NaN or infinite.
    """
    x, y = (torch.as_tensor(part, dtype=torch.float64).flatten() for part in (novelty, ratings))
    if len(x) != len(y):
        raise ShapeError(f"ratings: expected one for each of {len(x)} novelties, got {len(y)}")
    check_finite("novelty", x)
    check_finite("ratings", y)
    if kind not in ("auto", "berlyne", "quadratic"):
        raise ConfigError(f"kind: expected 'auto', 'berlyne' or 'quadratic', got {kind!r}")
    distinct, least = len(x.unique()), 7 if kind == "berlyne" else 4
    if distinct < least:
        raise ConfigError(f"novelty: expected {least} different values or more, got {distinct}")
    if kind == "quadratic" or (kind == "auto" and distinct < 9):
        return _quadratic(x, y)
    curve = _berlyne(x, y)
    if kind == "berlyne":
        return curve
    plain = _quadratic(x, y)
    better = _akaike(curve.squared_error, len(x), 6) < _akaike(plain.squared_error, len(x), 3)
    return curve if better else plain


def _akaike(squared_error: float, count: int, parameters: int) -> float:
    """Return the Akaike criterion, corrected for few ratings."""
    k = parameters + 1  # the noise has a width, too
    fit = count * math.log(max(squared_error, 1e-300) / count)
    return fit + 2 * k + 2 * k * (k + 1) / max(count - k - 1, 1e-9)


def _curve(kind: str, parameters: Mapping[str, float], x: Tensor, y: Tensor) -> ArousalCurve:
    low, high = float(x.min()), float(x.max())
    shape = ArousalCurve(
        kind=kind,
        parameters=parameters,
        low=low,
        high=high,
        peak=None,
        squared_error=0.0,
        r_squared=0.0,
    )
    grid = torch.linspace(low, high, _GRID, dtype=torch.float64)
    top = int(shape.predict(grid).argmax())
    error = float((shape.predict(x) - y).square().sum())
    spread = float((y - y.mean()).square().sum())
    return ArousalCurve(
        kind=kind,
        parameters=parameters,
        low=low,
        high=high,
        peak=None if top in (0, _GRID - 1) else float(grid[top]),
        squared_error=error,
        r_squared=1 - error / spread if spread > 0 else 0.0,
    )


def _quadratic(x: Tensor, y: Tensor) -> ArousalCurve:
    centre, scale = x.mean(), x.std()  # powers of raw distances would lose digits
    z = (x - centre) / scale
    columns = torch.stack([torch.ones_like(z), z, z.square()], dim=1)
    b0, b1, b2 = torch.linalg.lstsq(columns, y[:, None]).solution[:, 0]
    a2 = b2 / scale**2
    a1 = b1 / scale - 2 * a2 * centre
    a0 = b0 - b1 * centre / scale + a2 * centre**2
    return _curve("quadratic", {"a0": float(a0), "a1": float(a1), "a2": float(a2)}, x, y)


def _berlyne(x: Tensor, y: Tensor) -> ArousalCurve:
    """Fit the sigmoids: their places and widths by descent, their heights exactly at each step."""
    low, span = x.min(), x.max() - x.min()
    z = (x - low) / span
    places = [0.1, 0.3, 0.5, 0.7, 0.9]
    starts = [
        torch.tensor([a, math.log(b), math.log(c - a), math.log(d)], dtype=torch.float64)
        for a, c, b, d in product(places, [*places, 1.2], _WIDTHS, _WIDTHS)
        if c > a
    ]
    starts.sort(key=lambda start: float(_left_over(start, z, y)[0]))
    minima = [_descend(start, z, y) for start in starts[:_STARTS]]
    best = min(minima, key=lambda point: float(_left_over(point, z, y)[0]))
    r, q = _left_over(best, z, y)[1]
    a, b, gap, d = _unpacked(best)
    parameters = {
        "r": r,
        "a": low + span * a,
        "b": span * b,
        "q": q,
        "c": low + span * (a + gap),
        "d": span * d,
    }
    return _curve("berlyne", {name: float(value) for name, value in parameters.items()}, x, y)


def _unpacked(point: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a, b, c - a and d; no sigmoid is so steep that it is a step between two ratings."""
    a, b, gap, d = point
    return a, b.exp() + 1e-3, gap.exp(), d.exp() + 1e-3


def _left_over(point: Tensor, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared error with the best heights, and those, ``[2]``, 0 or more."""
    a, b, gap, d = _unpacked(point)
    first, second = torch.sigmoid((z - a) / b), -torch.sigmoid((z - a - gap) / d)
    ff, fs, ss = first @ first, first @ second, second @ second
    fy, sy = first @ y, second @ y
    det = ff * ss - fs.square() + 1e-12 * ff * ss
    r, q = (ss * fy - fs * sy) / det, (ff * sy - fs * fy) / det
    if bool(q.detach() < 0) or bool(r.detach() < 0):  # no aversion: the first sigmoid alone
        r, q = (fy / ff).clamp_min(0), torch.zeros_like(q)
    error = (r * first + q * second - y).square().sum()
    return error, torch.stack([r, q])


def _descend(start: Tensor, z: Tensor, y: Tensor) -> Tensor:
    point = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([point], max_iter=150, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        error = _left_over(point, z, y)[0]
        error.backward()
        return error

    optimizer.step(closure)
    minimum = point.detach()
    return minimum if bool(torch.isfinite(minimum).all()) else start
