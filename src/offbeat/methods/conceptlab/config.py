"""Settings of ConceptLab."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from offbeat.core.templates import fill
from offbeat.errors import ConfigError
from offbeat.methods.conceptlab.prompts import PICTURE_PROMPT, check_template
from offbeat.methods.settings import Settings, on_card, setting

NAME = "conceptlab"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptLabConfig(Settings):
    """Settings of a search; defaults as in the official code, for Kandinsky 2.1."""

    method = NAME

    num_steps: int | None = setting(
        None, 1, 10_000_000, help="Optimizer steps; None: 2,500, and 2,000 for a child of pictures."
    )
    learning_rate: float = setting(1e-4, 1e-12, 100, help="Of AdamW.")
    weight_decay: float = setting(1e-2, 0, 100, help="Of AdamW.")
    max_cosine: float = setting(0.28, -1, 1, help="A positive stops pulling above this cosine.")
    min_cosine: float | None = setting(
        None, -1, 1, help="A negative stops pushing below this cosine; None: 0.20, a style's 0.15."
    )
    positive_weight: float = setting(
        1.0, 0, 1_000_000, help="lambda: of the pull, beside the push."
    )
    judge_every: int = setting(
        250, 0, 10_000_000, help="Steps between two new negatives; 0 never asks the judge."
    )
    keep_duplicates: bool = setting(
        True, help="Whether an answer that is known already counts again, as published."
    )
    gradual_negatives: bool = setting(
        False, help="Take the request's negatives one at a time, not the judge's answers."
    )
    style: bool = setting(
        False, help="Learn an art style: positives are the same prompts without the style."
    )
    space: str = setting(
        "image",
        choices=("image", "text"),
        help="Where cosines are taken: the image space of the prior, or the text space.",
    )
    initial_word: str | None = setting(
        None, help="The word the token starts from; None: the subject, or the mean of the words."
    )
    templates: tuple[str, ...] = setting(
        (), help="Prompts with {article} and {word}; none: those of the method."
    )
    prior_num_inference_steps: int = setting(5, 2, 1000, help="Denoising steps of the prior.")
    prior_guidance_scale: float | None = setting(
        4.0, 0, 100, help="Guidance of the prior; None: that of the checkpoint."
    )
    picture_prompt: str | None = setting(
        PICTURE_PROMPT, help="Prompt of the pictures, with {subject}; None: the checkpoint's own."
    )
    num_inference_steps: int | None = setting(
        50, 1, 1000, help="Denoising steps of the pictures; None: the checkpoint's own."
    )
    guidance_scale: float | None = setting(
        7.5, 0, 1000, help="Guidance of the pictures; None: the checkpoint's own."
    )
    gradient_steps: int | None = setting(
        None, 1, 1000, help="The gradient passes the last so many denoising steps; None: all."
    )

    def check(self) -> None:
        """Raise if cosines or negatives do not fit each other, or a prompt lacks its place."""
        if self.push_until > self.max_cosine:
            got = f"{self.push_until!r} and {self.max_cosine!r}"
            raise ConfigError(f"cosines: expected min_cosine <= max_cosine, got {got}")
        if self.gradual_negatives and not self.judge_every:
            raise ConfigError("judge_every: expected 1 or more with gradual_negatives, got 0")
        for template in self.templates:
            check_template(template, style=self.style)
        if self.picture_prompt is not None:
            fill(self.picture_prompt, subject="")

    def steps(self, *, of_child: bool = False) -> int:
        """Return the optimizer steps, of a search or of a child of pictures."""
        return self.num_steps or (2000 if of_child else 2500)

    @property
    def push_until(self) -> float:
        """The cosine below which a negative stops pushing."""
        if self.min_cosine is not None:
            return self.min_cosine
        return 0.15 if self.style else 0.20

    @classmethod
    def card_settings(cls, card: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a card says; its prompts are those of objects, not of styles."""
        settings = on_card(card, NAME)
        if given.get("style"):
            settings.pop("templates", None)
        return settings
