"""The words in which the simple rivals ask: for a subject, and for a pair."""

from __future__ import annotations

from collections.abc import Sequence

from offbeat.core.templates import article, fill
from offbeat.methods.mixing.sources import prompt_of
from offbeat.protocols import HasCard
from offbeat.types import Request

CREATIVE = "creative {subject}"
MIXTURE = "mixture of {first} and {second}"


def check_phrases(subject: str, mixture: str) -> None:
    """Refuse phrases without their places.

    Raises:
        PromptError: With the place that is missing.
    """
    fill(subject, subject="")
    fill(mixture, first="", second="")


def subject_prompt(backbone: HasCard, request: Request, phrase: str) -> str:
    """Return the prompt of a subject in a phrase, in the request's or the checkpoint's template."""
    return prompt_of(backbone, request, fill(phrase, subject=request.subject))


def mixture_prompt(backbone: HasCard, request: Request, phrase: str, words: Sequence[str]) -> str:
    """Return the prompt of two words in a phrase, each with its article."""
    first, second = (f"{article(word)} {word}" for word in words)
    return prompt_of(backbone, request, fill(phrase, first=first, second=second))
