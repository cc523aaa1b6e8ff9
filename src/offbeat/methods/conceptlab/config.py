"""Settings of ConceptLab."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from offbeat.core.checks import check_range
from offbeat.errors import ConfigError
from offbeat.methods.conceptlab.prompts import check_template
from offbeat.methods.settings import configured, on_card

NAME = "conceptlab"

_RANGES: dict[str, tuple[float, float]] = {
    "num_steps": (1, 10_000_000),
    "learning_rate": (1e-12, 100),
    "weight_decay": (0, 100),
    "max_cosine": (-1, 1),
    "min_cosine": (-1, 1),
    "positive_weight": (0, 1e6),
    "judge_every": (0, 10_000_000),
    "prior_num_inference_steps": (2, 1000),
    "prior_guidance_scale": (0, 100),
    "gradient_steps": (1, 1000),
}
"""What every number must lie in; NaN lies in none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptLabConfig:
    """Settings of one search, saved as they were asked; defaults as published, for full CLIP."""

    num_steps: int = 2500
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    max_cosine: float = 0.28
    """A positive stops pulling above this cosine."""
    min_cosine: float = 0.20
    """A negative stops pushing below this cosine."""
    positive_weight: float = 1.0
    """lambda: of the pull, beside the push."""
    judge_every: int = 250
    """Steps between two new negatives, the first before training; 0 never asks."""
    keep_duplicates: bool = True
    """Whether an answer that is known already counts again, as published."""
    gradual_negatives: bool = False
    """Take the request's negatives, shuffled, one at a time in place of the judge's answers."""
    style: bool = False
    """Learn an art style: positives are the same prompts without the style."""
    space: str = "image"
    """Where cosines are taken: ``image``, the prior's output, or ``text``, as CLIP-ConceptLab."""
    initial_word: str | None = None
    """What the token starts from; None is the subject, or the mean of the words of a mixture."""
    templates: tuple[str, ...] = ()
    """Prompts with ``{article}`` and ``{word}``, drawn as often as listed; none: the method's."""
    prior_num_inference_steps: int = 5
    prior_guidance_scale: float | None = 4.0
    """None is the checkpoint's own."""
    gradient_steps: int | None = None
    """Last denoising steps that the gradient passes; None is all: exact."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if (value := getattr(self, name)) is not None:
                check_range(name, value, low, high)
        if self.min_cosine > self.max_cosine:
            got = f"{self.min_cosine!r} and {self.max_cosine!r}"
            raise ConfigError(f"cosines: expected min_cosine <= max_cosine, got {got}")
        if self.space not in ("image", "text"):
            raise ConfigError(f"space: expected image or text, got {self.space!r}")
        if self.gradual_negatives and not self.judge_every:
            raise ConfigError("judge_every: expected 1 or more with gradual_negatives, got 0")
        for template in self.templates:
            check_template(template, style=self.style)

    @classmethod
    def for_card(cls, card: Mapping[str, Any], **asked: Any) -> ConceptLabConfig:
        """Return what suits a checkpoint by its card, with what was ``asked`` before that.

        Raises:
            ConfigError: If a setting is unknown, or of another kind.
        """
        own = on_card(card, NAME)
        if asked.get("style"):  # a card's prompts are those of objects
            own.pop("templates", None)
        settings = {**own, **asked}
        if "templates" in settings:  # a list in JSON
            settings["templates"] = tuple(settings["templates"])
        return configured(cls, NAME, settings)
