"""What a backbone, a judge or a method must offer: one capability, one Protocol.

Those of backbones are in ``_backbone_protocols``; all are imported from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from offbeat._backbone_protocols import (
    AdaptsDenoiser,
    AdaptsPrior,
    AddsNoise,
    ComparingBackbone,
    CountsEvaluations,
    DecodesEmbeds,
    DenoisesText,
    DenoisingBackbone,
    DrawingBackbone,
    DrawsText,
    EditsAttention,
    EncodesImage,
    EncodesLatents,
    EncodesText,
    Generators,
    HasCard,
    HasEmptyText,
    InvertsImages,
    LookingBackbone,
    MixingBackbone,
    MorphingBackbone,
    PaintingBackbone,
    PredictsClean,
    PriorBackbone,
    SamplesPrior,
    SplitsTokens,
    SteppedBackbone,
    TextBackbone,
    WalksInPieces,
)
from offbeat.types import Better, Concept, OnStep, Request, Scores, Trained, Verdict

__all__ = [
    "AdaptsDenoiser",
    "AdaptsPrior",
    "AddsNoise",
    "AnswersYes",
    "CalibratedJudge",
    "ChecksSubject",
    "ComparingBackbone",
    "CountsEvaluations",
    "DecodesEmbeds",
    "DenoisesText",
    "DenoisingBackbone",
    "DrawingBackbone",
    "DrawsText",
    "DreamsConcepts",
    "EditsAttention",
    "EncodesImage",
    "EncodesLatents",
    "EncodesText",
    "FitsConcept",
    "FusesConcepts",
    "Generators",
    "HasCard",
    "HasEmptyText",
    "InvertsArt",
    "InvertsImages",
    "LookingBackbone",
    "Metric",
    "MixesSources",
    "MixingBackbone",
    "MorphingBackbone",
    "MorphsSources",
    "NamesThings",
    "Need",
    "PaintingBackbone",
    "PaintsImages",
    "PredictsClean",
    "PriorBackbone",
    "ReadsClasses",
    "SamplesPrior",
    "SplitsTokens",
    "Segments",
    "Source",
    "SourceKind",
    "SteppedBackbone",
    "Takes",
    "TextBackbone",
    "TrainsOnce",
    "WalksInPieces",
]

Source: TypeAlias = "str | Tensor"
"""What is mixed: a word, or a picture, ``[3, H, W]``, 0 to 1."""
SourceKind: TypeAlias = Literal["word", "picture"]
Takes: TypeAlias = "tuple[tuple[SourceKind, ...], tuple[SourceKind, ...]]"
"""What the first of two sources may be, and the second."""
Need: TypeAlias = Literal["texts", "references", "judge"]
"""What a metric wants beside pictures; a judge is given to its ``load``."""


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
class Segments(Protocol):
    """Cuts pictures into parts without being told what is on them."""

    name: str
    """The segmenter's name, for settings."""

    def segments(self, images: Tensor) -> list[Tensor]:
        """Return the parts of each of ``images``, ``[B, 3, H, W]``, 0 to 1.

        Each picture has masks of its own, ``[K, H, W]``, bool, K 1 or more.
        """
        ...


class FitsConcept(Protocol):
    """A method that learns."""

    def fit(
        self,
        backbone: Any,
        request: Request,
        *,
        judge: ChecksSubject | None = None,
        on_step: OnStep = ...,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return the concept found; ``request.seed`` alone decides every draw."""
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
class NamesThings(Protocol):
    """A judge that answers "What kind of ... is it?" in a word."""

    def name_it(self, image: Tensor, subject: str) -> str:
        """Return what kind of ``subject`` one picture, ``[3, H, W]``, 0 to 1, shows."""
        ...


@runtime_checkable
class TrainsOnce(Protocol):
    """A method that learns once for all concepts."""

    name: str
    """The method's name in the registry."""

    def train(
        self,
        backbone: Any,
        vocabulary: Sequence[str],
        *,
        seed: int = 0,
        judge: ReadsClasses | None = None,
        on_step: OnStep = ...,
        resume: Mapping[str, Any] | None = None,
    ) -> Trained:
        """Return what was learned; ``seed`` alone decides every draw."""
        ...


@runtime_checkable
class FusesConcepts(Protocol):
    """A method that makes one concept of several words."""

    name: str
    """The method's name in the registry."""
    takes_weights: bool
    """Whether shares matter, or only which words there are."""

    def fuse(
        self,
        backbone: Any,
        request: Request,
        *,
        trained: Trained | None = None,
        judge: ReadsClasses | None = None,
        on_step: OnStep = ...,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return the concept of ``request.weights``; ``request.seed`` alone decides every draw."""
        ...


@runtime_checkable
class DreamsConcepts(Protocol):
    """A method that makes concepts that nobody named."""

    name: str
    """The method's name in the registry."""

    def dream(
        self,
        backbone: Any,
        request: Request,
        index: int,
        *,
        trained: Trained | None = None,
        judge: Any | None = None,
        on_step: OnStep = ...,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return dream ``index`` of ``request.seed``; the two alone decide every draw."""
        ...


@runtime_checkable
class MixesSources(Protocol):
    """A method that draws a mixture itself: what it finds is pictures, and no concept."""

    name: str
    """The method's name in the registry."""
    takes: Takes
    takes_weights: bool
    """Whether the shares of ``request.weights`` matter."""

    def mix(
        self,
        backbone: Any,
        request: Request,
        sources: Sequence[Source],
        *,
        pictures: Sequence[Tensor] | None = None,
        start: int = 0,
        on_step: OnStep = ...,
    ) -> Tensor:
        """Return ``request.num_images`` pictures, ``[N, 3, H, W]``, 0 to 1, of two sources.

        ``request.weights`` names each source and gives its share, in the order of ``sources``.
        ``pictures`` are ordinary ones of each source, ``[N, 3, H, W]``, if they are drawn already.
        ``start`` is the number of the first picture: picture i depends on the seed and i alone.
        """
        ...


@runtime_checkable
class MorphsSources(MixesSources, Protocol):
    """A method that draws the path between two sources as a whole."""

    def morph(
        self,
        backbone: Any,
        request: Request,
        sources: Sequence[Source],
        *,
        num: int,
        pictures: Sequence[Tensor] | None = None,
        start: int = 0,
        on_step: OnStep = ...,
    ) -> Tensor:
        """Return ``num`` frames of each picture, the ends first and last, ``[N, F, 3, H, W]``.

        The shares of ``request.weights`` are not read; the rest is as in ``mix``.
        """
        ...


@runtime_checkable
class PaintsImages(Protocol):
    """A method that brings real-world content into an artwork."""

    name: str
    """The method's name in the registry."""

    def paint(
        self,
        backbone: Any,
        request: Request,
        art: Tensor,
        *,
        content: Tensor | None = None,
        way: Tensor | None = None,
        start: int = 0,
        on_step: OnStep = ...,
    ) -> Tensor:
        """Return ``request.num_images`` pictures, ``[N, 3, H, W]``, 0 to 1.

        ``art`` and ``content`` are ``[3, H, W]``, 0 to 1; ``request.prompt`` may say more. ``way``
        is the inversion of ``art``, if it is known already. ``start`` is the number of the first
        picture: picture i depends on the seed and i alone.
        """
        ...


@runtime_checkable
class InvertsArt(Protocol):
    """A method that paints from an artwork's inversion, which can be kept."""

    def inversion_settings(self) -> Mapping[str, Any]:
        """Return everything that ``invert`` depends on beside picture and checkpoint, as JSON."""
        ...

    def invert(self, backbone: Any, image: Tensor) -> Tensor:
        """Return what ``paint`` takes as ``way``, of a picture ``[3, H, W]``, 0 to 1."""
        ...

    def reconstruct(self, backbone: Any, way: Tensor) -> Tensor:
        """Return the picture, ``[3, H, W]``, 0 to 1, that it leads back to if it is not pinned."""
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
