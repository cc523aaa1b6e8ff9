"""What a method must offer: one capability, one Protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from offbeat.protocols.judges import ChecksSubject, ReadsClasses
from offbeat.types import Concept, OnStep, Request, Trained

Source: TypeAlias = "str | Tensor"
"""What is mixed: a word, or a picture, ``[3, H, W]``, 0 to 1."""

SourceKind: TypeAlias = Literal["word", "picture"]

Takes: TypeAlias = "tuple[tuple[SourceKind, ...], tuple[SourceKind, ...]]"
"""What the first of two sources may be, and the second."""


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
class DrawsSubject(Protocol):
    """A method that draws a subject its own way: what it finds is pictures, and no concept."""

    name: str
    """The method's name in the registry."""
    from_one_pool: bool
    """Whether all pictures are chosen from one pool: then each call costs the whole pool."""

    def draw(
        self,
        backbone: Any,
        request: Request,
        *,
        judge: Any | None = None,
        start: int = 0,
        on_step: OnStep = ...,
    ) -> Tensor:
        """Return ``request.num_images`` pictures, ``[N, 3, H, W]``, 0 to 1, of the subject.

        ``judge`` may be asked about pictures, by methods that look. ``start`` is the number of the
        first picture: picture i depends on the seed and i alone, and starts from the noise of the
        ordinary picture i, as ``offbeat.drawing`` draws it, wherever the method allows it.
        """
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
