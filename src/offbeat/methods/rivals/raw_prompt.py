"""Raw prompt: ask for it in plain words, "a creative handbag", "a mixture of a pig and a snake".

Nothing is searched or learned. It is what every method of this library must beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from offbeat.methods.settings import configured, on_card
from offbeat.protocols import TextBackbone
from offbeat.protocols.methods import Source, Takes
from offbeat.types import OnStep, Request, ignore_step

NAME = "raw-prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawPromptConfig:
    """The words, saved as they were asked; they stand where a subject does in a template."""

    phrase: str = CREATIVE
    """For a subject, with ``{subject}``."""
    mixture: str = MIXTURE
    """For a pair, with ``{first}`` and ``{second}``, which bring their articles."""

    def __post_init__(self) -> None:
        check_phrases(self.phrase, self.mixture)

    @classmethod
    def for_card(cls, card: Mapping[str, Any], **asked: Any) -> RawPromptConfig:
        """Return what suits a checkpoint by its card, with what was ``asked`` before that.

        Raises:
            ConfigError: If a setting is unknown, or of another kind.
        """
        return configured(cls, NAME, {**on_card(card, NAME), **asked})


class RawPrompt:
    """One prompt, drawn from the noise of the ordinary pictures."""

    name = NAME
    config_class = RawPromptConfig
    needs = TextBackbone
    takes: Takes = (("word",), ("word",))
    takes_weights = False
    from_one_pool = False

    def __init__(self, config: RawPromptConfig | None = None) -> None:
        self.config = config or RawPromptConfig()

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
