"""Settings of CreTok."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from offbeat.core.checks import check_range
from offbeat.core.templates import fill
from offbeat.errors import ConfigError
from offbeat.methods.settings import configured, on_card

NAME = "cretok"

WORD = "<cretok>"

PUBLISHED_THETA = 0.5

_RANGES: dict[str, tuple[float, float]] = {
    "theta": (-1, 1),
    "theta_quantile": (0, 1),
    "num_steps": (1, 10_000_000),
    "learning_rate": (1e-12, 100),
    "batch_size": (1, 100_000),
    "num_pairs": (1, 1_000_000),
    "flat_steps": (1, 10_000_000),
    "flat_tolerance": (0, 2),
}
"""What every number must lie in; NaN lies in none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreTokConfig:
    """Settings of one training and of the prompts that use its token, saved as they were asked."""

    theta: float | None = None
    """Cosine above which a pair pulls no more, -1 to 1; None is the published 0.5."""
    theta_quantile: float | None = None
    """Goes in place of ``theta``: this quantile of the cosines before training, 0 to 1."""
    num_steps: int = 10_000
    learning_rate: float = 0.01
    """Of the first step; it falls to 0 along a cosine."""
    batch_size: int = 16
    """Pairs a step, drawn anew at every step, each in both orders."""
    num_pairs: int = 200
    """Training pairs; no evaluation pair is among them."""
    flat_steps: int | None = None
    """Stop when the loss over all pairs has not fallen in so many steps; None never does."""
    flat_tolerance: float = 1e-5
    """What counts as fallen."""
    initial_word: str = "creative"
    restrictive_template: str = "a {first} {second}"
    adaptive_template: str = "a photo of a {concept} mixture"
    use_template: str = "a photo of a {concept}"
    """What the phrase stands in; another prompt may take its place when it is rendered."""
    phrase: str = "{token} mixture that resembles {words}"
    """What a fused concept is called; ``{words}`` becomes ``a pig, an owl and a snake``."""

    def __post_init__(self) -> None:
        if self.theta is not None and self.theta_quantile is not None:
            raise ConfigError(
                "theta: expected theta or theta_quantile, got both: "
                f"{self.theta!r} and {self.theta_quantile!r}"
            )
        for name, (low, high) in _RANGES.items():
            if (value := getattr(self, name)) is not None:
                check_range(name, value, low, high)
        for name in ("num_steps", "batch_size", "num_pairs", "flat_steps"):
            if not isinstance(value := getattr(self, name), int | None):
                raise ConfigError(f"{name}: expected a whole number, got {value!r}")
        fill(self.restrictive_template, first="pig", second="owl")
        fill(self.adaptive_template, concept=WORD)
        fill(self.use_template, concept=WORD)
        fill(self.phrase, token=WORD, words="a pig")

    @classmethod
    def for_card(cls, card: Mapping[str, Any], **asked: Any) -> CreTokConfig:
        """Return what suits a checkpoint by its card, with what was ``asked`` before that.

        Raises:
            ConfigError: If a setting is unknown, or of another kind.
        """
        own = on_card(card, NAME)
        if {"theta", "theta_quantile"} & asked.keys():  # one of them speaks for both
            own = {name: own[name] for name in own.keys() - {"theta", "theta_quantile"}}
        return configured(cls, NAME, {**own, **asked})
