"""Settings of DisTok."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from offbeat.core.checks import check_range
from offbeat.core.templates import fill
from offbeat.errors import ConfigError
from offbeat.methods.settings import configured, on_card
from offbeat.types import PLACEHOLDER

NAME = "distok"

_CHOICES = {
    "pair_weighting": ("mean", "sum"),
    "fusion_target": ("prompt", "shares"),
    "regularise_over": ("batch", "per_sample"),
    "consistency_from": ("novel", "pool"),
    "estimate_from": ("noise", "mixtures"),
    "law": ("gaussian", "laplace", "cauchy"),
}

_MANY = 10_000_000

_RANGES: dict[str, tuple[float, float]] = {
    "num_steps": (1, _MANY),
    "batch_size": (1, 100_000),
    "learning_rate": (1e-12, 1),
    "weight_decay": (0, 1),
    "max_grad_norm": (1e-12, 1e12),
    "latent_width": (1, 10_000),
    "hidden_width": (1, 100_000),
    "max_restrictive_cosine": (-1, 1),
    "max_aesthetic_cosine": (-1, 1),
    "fusion_weight": (0, 1e6),
    "consistency_weight": (0, 1e6),
    "regulariser_weight": (0, 1e6),
    "consistency_share": (0, 1),
    "known_share": (0, 1),
    "estimate_every": (1, _MANY),
    "num_estimated": (1, 10_000),
    "num_pictures": (1, 1000),
    "max_known_probability": (0, 1),
    "max_novel": (1, 1_000_000),
    "num_inference_steps": (1, 1000),
    "watch_every": (1, _MANY),
    "min_token_distance": (0, 2),
    "dream_classes": (1, 1_000_000),
    "share_exponent": (0.01, 100),
}
"""What every number must lie in; NaN lies in none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DisTokConfig:
    """Settings of one training and of what is dreamt, saved as they were asked."""

    num_steps: int = 20_000
    batch_size: int = 8
    """Samples an update, n; each is of one task."""
    learning_rate: float = 1e-4
    """Of the first step; it falls to 0 along a cosine."""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    latent_width: int = 20
    hidden_width: int = 768
    adaptive_template: str = "a photo of a {concept}"
    restrictive_template: str = "a {first} {second}"
    aesthetic_prompt: str | None = "a photo of a cute pet"
    """The published one suits pets alone; None switches its term off."""
    max_restrictive_cosine: float = 0.85
    """A restrictive prompt pulls no more above this cosine, eps1."""
    max_aesthetic_cosine: float = 0.80
    """The aesthetic prompt pulls no more above this cosine, eps2."""
    fusion_weight: float = 1.0
    consistency_weight: float = 1.0
    regulariser_weight: float = 0.001
    """alpha, beta and gamma of the total loss."""
    pair_weighting: str = "mean"
    """A pair enters as the ``mean`` of its tokens, as any mixture, or as their ``sum``."""
    fusion_target: str = "prompt"
    """``prompt`` is published: half and half. ``shares`` draws shares, and pulls to their texts."""
    regularise_over: str = "batch"
    """Mean and spread over the latents of an update, or over the coordinates: ``per_sample``."""
    consistency_share: float = 0.5
    """Probability of the consistency task, once there is an entry for it."""
    consistency_from: str = "novel"
    """``novel`` entries, as published, or the whole ``pool``: known classes too."""
    known_share: float = 0.5
    """Probability that the entries drawn are known classes, where both kinds may be drawn."""
    estimate_every: int = 500
    """Updates between two rounds of class distribution estimation."""
    num_estimated: int = 8
    """Samples a round."""
    num_pictures: int = 1
    """Pictures of a sample that the judge's reading is the mean of."""
    estimate_from: str = "noise"
    """What is read: decoded ``noise``, as published, or drawn ``mixtures`` of known classes."""
    max_known_probability: float = 0.85
    """tau: what the judge takes for a known class from here on is not admitted to the pool."""
    max_novel: int = 1000
    """Novel entries in the pool; the oldest goes first, known classes never."""
    num_inference_steps: int | None = None
    """Of the decoder, in estimation; None is the checkpoint's own."""
    watch_every: int = 500
    """Updates between two readings of the collapse alarm."""
    min_token_distance: float = 0.1
    """The alarm rings where decoded tokens are nearer to each other in the mean, 0 to 2."""
    law: str = "gaussian"
    """Of dreams: gaussian, laplace or cauchy."""
    dream_classes: int | None = None
    """A dream settles on the nearest mixture of so many known classes; None lets it lie."""
    share_exponent: float = 1.0
    """A fusion's shares are raised to it, then sum to 1 again: below 1 the lesser show more."""

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if (got := getattr(self, name)) not in known:
                raise ConfigError(f"{name}: expected one of {', '.join(known)}, got {got!r}")
        for name, (low, high) in _RANGES.items():
            if (value := getattr(self, name)) is not None:
                check_range(name, value, low, high)
        fill(self.adaptive_template, concept=PLACEHOLDER)
        fill(self.restrictive_template, first="pig", second="owl")

    @classmethod
    def for_card(cls, card: Mapping[str, Any], **asked: Any) -> DisTokConfig:
        """Return what suits a checkpoint by its card, with what was ``asked`` before that.

        Raises:
            ConfigError: If a setting is unknown, or of another kind.
        """
        return configured(cls, NAME, {**on_card(card, NAME), **asked})
