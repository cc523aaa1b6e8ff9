"""Whether a mixture of two things has as much of one as of the other.

Sources: RMLer (AAAI 2026), similarity, balance and reward with a = 5, as also in BASS,
arXiv:2310.01819; the form by texts is its twin.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from offbeat.core.functional import balance_reward, cosine
from offbeat.errors import ImageError, PromptError, VocabularyError
from offbeat.metrics.common import pictures, texts_for
from offbeat.metrics.encoders import EncoderMetric
from offbeat.metrics.similarity import text_cosines
from offbeat.types import Better


def parts_of(text: str, *, at_least: int = 2) -> list[tuple[str, float]]:
    """Return words with shares, which sum to 1, of ``pig=0.55 + sheep=0.25 + snake=0.2``.

    Args:
        text: Words between plus signs, each with a weight or none with one.
        at_least: So many words are needed.

    Raises:
        VocabularyError: If it is no such text.

    >>> parts_of("pig + owl")
    [('pig', 0.5), ('owl', 0.5)]
    """
    wrong = VocabularyError(
        f"texts: expected {at_least} different words or more with + between, each with a weight "
        f"above 0 or none with one, e.g. 'pig + owl' or 'pig=0.7 + owl=0.3', got {text!r}"
    )
    pieces = [[piece.strip() for piece in part.split("=")] for part in text.split("+")]
    words = [piece[0] for piece in pieces]
    if {len(piece) for piece in pieces} not in ({1}, {2}) or not all(words):
        raise wrong
    try:
        weights = [float(piece[1]) if len(piece) == 2 else 1.0 for piece in pieces]
    except ValueError as error:
        raise wrong from error
    if len(words) < at_least or len(set(words)) < len(words):
        raise wrong
    if not all(0 < weight < float("inf") for weight in weights):
        raise wrong
    return [(word, weight / sum(weights)) for word, weight in zip(words, weights, strict=True)]


class _Fusion(EncoderMetric):
    """One of three measures of a picture's similarities to the two things that it mixes.

    The similarities are to reference pictures where there are some, the first half of them of the
    first thing, the second of the second; else to texts of the form ``one + other``.
    """

    reads = "weights"

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return the measure of each picture, ``[B]``."""
        if references is not None:
            return self.combine(*self._by_pictures(images, references))
        if texts is None:
            raise PromptError(
                f"{self.stem}: expected texts of the form 'one + other', or reference pictures, "
                "half of them of each thing; got neither"
            )
        return self.combine(*self._by_texts(images, texts_for(texts, len(images))))

    def remark(
        self,
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> str:
        """Return what the similarities are to."""
        if references is None:
            return "fusion: similarities to the two texts"
        half = len(references) // 2
        return f"fusion: similarities to the first {half} references, and to the other {half}"

    def _by_pictures(
        self, images: list[Tensor], references: Sequence[Tensor] | Tensor
    ) -> tuple[Tensor, Tensor]:
        others = pictures(references, "references", at_least=2)
        if len(others) % 2:
            raise ImageError(
                "references: expected as many pictures of the first thing as of the second, one "
                f"after the other, got {len(others)} in all"
            )
        cosines = cosine(self.encoder.image_embeds(images), self.encoder.image_embeds(others))
        first, second = cosines.chunk(2, dim=1)
        return first.mean(dim=1), second.mean(dim=1)

    def _by_texts(self, images: list[Tensor], texts: list[str]) -> tuple[Tensor, Tensor]:
        pairs = [[word for word, _ in parts_of(text)] for text in texts]
        if wrong := [text for text, pair in zip(texts, pairs, strict=True) if len(pair) != 2]:
            raise VocabularyError(f"texts: expected two things, 'one + other', got {wrong[0]!r}")
        first, second = (
            text_cosines(self.encoder, images, [pair[side] for pair in pairs]) for side in (0, 1)
        )
        return first, second

    @staticmethod
    @abstractmethod
    def combine(first: Tensor, second: Tensor) -> Tensor:
        """Return the measure of both similarities, ``[B]``."""


class FusionSimilarity(_Fusion):
    """The mean of both similarities, -1 to 1."""

    stem = "fusion_similarity"

    @staticmethod
    def combine(first: Tensor, second: Tensor) -> Tensor:
        """Return (S1 + S2) / 2."""
        return (first + second) / 2


class FusionBalance(_Fusion):
    """The gap between both similarities, 0 to 2; 0 is in the middle."""

    stem = "fusion_balance"
    better: Better = "lower"

    @staticmethod
    def combine(first: Tensor, second: Tensor) -> Tensor:
        """Return |S1 - S2|."""
        return (first - second).abs()


class FusionReward(_Fusion):
    """RMLer's reward S1 + S2 - 5 |S1 - S2|."""

    stem = "fusion_reward"

    @staticmethod
    def combine(first: Tensor, second: Tensor) -> Tensor:
        """Return the reward."""
        return balance_reward(first, second)
