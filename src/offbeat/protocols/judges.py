"""What a judge, a segmenter or a metric must offer: one capability, one Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from offbeat.types import Better, Scores, Verdict

Need: TypeAlias = Literal["texts", "references", "judge"]
"""What a metric wants beside pictures; a judge is given to its ``load``."""

PRESENT_FROM = 0.5
"""Probability of presence from which a thing is there."""


@runtime_checkable
class ChecksSubject(Protocol):
    """Answers "Is this still a ...?" about pictures."""

    @property
    def name(self) -> str:
        """The judge's name, with its checkpoint."""
        ...

    def still_a(self, images: Tensor, subject: str) -> list[Verdict]:
        """Return one verdict for each of ``images``, ``[B, 3, H, W]``, 0 to 1."""
        ...


@runtime_checkable
class CalibratedJudge(ChecksSubject, Protocol):
    """A judge that learns from ordinary pictures what a good one gets."""

    def calibrate(self, images: Tensor, subject: str) -> float:
        """Set the limit for ``subject`` by ordinary pictures, ``[B, 3, H, W]``; return it."""
        ...


@runtime_checkable
class ReadsClasses(Protocol):
    """A judge that gives a probability to each of its classes."""

    @property
    def name(self) -> str:
        """The judge's name, with its checkpoint."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The names that it chooses between, K."""
        ...

    def class_probabilities(self, images: Tensor) -> Tensor:
        """Return ``[B, K]`` over ``labels``, of ``images``, ``[B, 3, H, W]``, 0 to 1."""
        ...


@runtime_checkable
class ReadsPresence(ReadsClasses, Protocol):
    """A judge that can see several things in one picture, which shares cannot say."""

    def presence(self, images: Tensor) -> Tensor:
        """Return ``[B, K]``, each 0 to 1 on its own: is something of this label there?"""
        ...


@runtime_checkable
class AnswersYes(Protocol):
    """A judge that answers any question about pictures by yes or no."""

    @property
    def name(self) -> str:
        """The judge's name, with its checkpoint."""
        ...

    def probability_of_yes(self, images: Tensor, question: str) -> Tensor:
        """Return the probability of yes, ``[B]``, of ``images``, ``[B, 3, H, W]``, 0 to 1."""
        ...


@runtime_checkable
class AnswersQuestions(Protocol):
    """A judge that answers any question about pictures in words."""

    @property
    def name(self) -> str:
        """The judge's name, with its checkpoint."""
        ...

    def ask(self, images: Tensor, question: str, *, max_new_tokens: int = 20) -> list[str]:
        """Return an answer for each of ``images``, ``[B, 3, H, W]``, 0 to 1; empty if none came."""
        ...


@runtime_checkable
class NamesThings(Protocol):
    """A judge that answers "What kind of ... is it?" in a word."""

    def name_it(self, image: Tensor, subject: str) -> str:
        """Return what kind of ``subject`` one picture, ``[3, H, W]``, 0 to 1, shows."""
        ...


@runtime_checkable
class Segments(Protocol):
    """Cuts pictures into parts without being told what is on them."""

    name: str
    """The segmenter's name, for settings."""

    def segments(self, images: Tensor) -> list[Tensor]:
        """Return the parts of each of ``images``, ``[B, 3, H, W]``, 0 to 1.

        Each picture has masks of its own, ``[K, H, W]``, bool, K 1 or more.
        """
        ...


@runtime_checkable
class Metric(Protocol):
    """Measures pictures.

    The registry names classes that have, beside this, ``load(source=None, *, backbone=None,
    device="cpu")``: ``source`` is a folder or hub id of weights of its own; without one it runs on
    the encoders of ``backbone`` and says so in its name. One that needs a judge takes ``judge=``.
    """

    @property
    def name(self) -> str:
        """The metric's name, with whose encoders it runs where they are not its own."""
        ...

    @property
    def better(self) -> Better:
        """Which direction is the better one."""
        ...

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it cannot do without beside pictures."""
        ...

    def score(
        self,
        images: Sequence[Tensor] | Tensor,
        *,
        texts: Sequence[str] | None = None,
        references: Sequence[Tensor] | Tensor | None = None,
    ) -> Scores:
        """Return the scores of ``images``, ``[3, H, W]`` each, 0 to 1, of any sizes.

        Args:
            images: Pictures, 1 or more.
            texts: One for all pictures, or one for each.
            references: Pictures to compare with, ``[3, H, W]`` each, 0 to 1.
        """
        ...
