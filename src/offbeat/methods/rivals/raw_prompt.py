"""Raw prompt: ask for it in plain words, "a creative handbag", "a mixture of a pig and a snake".

Nothing is searched or learned. It is what every method of this library must beat.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from offbeat.methods.pictures import (
    Drawing,
    DrawsSubject,
    MixesSources,
    check_phrases,
    with_articles,
)
from offbeat.methods.settings import Settings, setting
from offbeat.protocols import TextBackbone

NAME = "raw-prompt"
MIXTURE = "mixture of {first} and {second}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawPromptConfig(Settings):
    """The words of the prompt; they stand where a subject does in a template."""

    method = NAME

    phrase: str = setting("creative {subject}", help="For a subject, with {subject}.")
    mixture: str = setting(
        MIXTURE, help="For a pair, with {first} and {second}, which bring their articles."
    )

    def check(self) -> None:
        """Raise if a phrase lacks its place."""
        check_phrases(self.phrase, self.mixture)


class RawPrompt(DrawsSubject[RawPromptConfig], MixesSources[RawPromptConfig]):
    """One prompt, drawn from the noise of the ordinary pictures."""

    name = NAME
    config_class = RawPromptConfig
    needs = TextBackbone
    verbs = frozenset({"explore", "fuse", "sweep"})

    def draw_subject(self, drawing: Drawing) -> Tensor:
        """Return pictures of the subject in the phrase."""
        return self._drawn(drawing, self.config.phrase, subject=drawing.request.subject)

    def draw_mixture(self, drawing: Drawing) -> Tensor:
        """Return pictures of the two words in the phrase."""
        return self._drawn(drawing, self.config.mixture, **with_articles(drawing.words))

    def _drawn(self, drawing: Drawing, phrase: str, **words: str) -> Tensor:
        prompt = drawing.prompt(phrase, **words)
        return drawing.draw(drawing.backbone.encode_text([prompt]))
