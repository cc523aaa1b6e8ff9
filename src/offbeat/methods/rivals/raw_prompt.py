"""Raw prompt: ask for it in plain words, "a creative handbag", "a mixture of a pig and a snake".

Nothing is searched or learned. It is what every method of this library must beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from offbeat.core.drawing import Noise, draw_from_text
from offbeat.methods.mixing.sources import two_words
from offbeat.methods.rivals.prompts import (
    CREATIVE,
    MIXTURE,
    check_phrases,
    mixture_prompt,
    subject_prompt,
)
from offbeat.methods.settings import Method, Settings, setting
from offbeat.protocols import TextBackbone
from offbeat.protocols.methods import Source
from offbeat.types import OnStep, Request, ignore_step

NAME = "raw-prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawPromptConfig(Settings):
    """The words, saved as they were asked; they stand where a subject does in a template."""

    method = NAME

    phrase: str = setting(CREATIVE, help="For a subject, with {subject}.")
    mixture: str = setting(
        MIXTURE, help="For a pair, with {first} and {second}, which bring their articles."
    )

    def check(self) -> None:
        """Raise if a phrase lacks its place."""
        check_phrases(self.phrase, self.mixture)


class RawPrompt(Method[RawPromptConfig]):
    """One prompt, drawn from the noise of the ordinary pictures."""

    name = NAME
    config_class = RawPromptConfig
    needs = TextBackbone
    verbs = frozenset({"explore", "fuse", "sweep"})
    result = "pictures"

    def draw(
        self,
        backbone: TextBackbone,
        request: Request,
        *,
        judge: Any | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Tensor:
        """Return pictures of the subject in the phrase, ``[N, 3, H, W]``, 0 to 1, on the CPU."""
        prompt = subject_prompt(backbone, request, self.config.phrase)
        return draw_from_text(
            backbone, backbone.encode_text([prompt]), Noise.ordinary(request, start)
        )

    def mix(
        self,
        backbone: TextBackbone,
        request: Request,
        sources: Sequence[Source],
        *,
        pictures: Sequence[Tensor] | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Tensor:
        """Return pictures of two words in the phrase, ``[N, 3, H, W]``, 0 to 1, on the CPU.

        Raises:
            ConfigError: If a source is a picture.
        """
        prompt = mixture_prompt(backbone, request, self.config.mixture, two_words(NAME, sources))
        return draw_from_text(
            backbone, backbone.encode_text([prompt]), Noise.ordinary(request, start)
        )
