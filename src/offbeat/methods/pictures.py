"""Base classes of methods that draw pictures themselves: of a subject, or of two sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.core.checks import check_shape
from offbeat.core.drawing import Noise, draw_from_text, template_of
from offbeat.core.rng import streams
from offbeat.core.templates import article, fill
from offbeat.errors import ConfigError
from offbeat.methods.settings import Config, Method
from offbeat.protocols import Source
from offbeat.types import OnStep, Request, Step, TextEmbeds, ignore_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """The pictures that a method is to draw, and what it draws them with."""

    method: str
    """The method's name, for errors."""
    backbone: Any
    request: Request
    start: int
    """Number of the first picture: picture i depends on the seed and i alone."""
    on_step: OnStep
    judge: Any | None = None
    sources: Sequence[Source] = ()
    """What is mixed, if something is."""
    pictures: Sequence[Tensor] | None = None
    """Ordinary pictures of each source, ``[N, 3, H, W]``, if they are drawn already."""

    @property
    def num(self) -> int:
        """Number of pictures, N."""
        return self.request.num_images

    @property
    def noise(self) -> Noise:
        """Fresh streams of the ordinary pictures of these numbers."""
        return Noise.ordinary(self.request, self.start)

    def streams(self, *purpose: str | int) -> list[torch.Generator]:
        """Return a stream of the method's own for each picture."""
        return streams(self.request.seed, self.method, *purpose, num=self.num, start=self.start)

    def prompt(self, phrase: str, **words: str) -> str:
        """Return a phrase, its places filled, in the request's or the checkpoint's template."""
        subject = fill(phrase, **words) if words else phrase
        return fill(template_of(self.backbone, self.request), subject=subject)

    def encode(self, *phrases: str) -> TextEmbeds:
        """Return the encoded prompts of phrases, which are taken as they are."""
        prompts = [self.prompt(phrase) for phrase in phrases]
        text: TextEmbeds = self.backbone.encode_text(prompts)
        return text

    def draw(self, text: TextEmbeds, *, guidance_times: float = 1.0) -> Tensor:
        """Return pictures of a text from the ordinary noise, ``[N, 3, H, W]``, on the CPU."""
        return draw_from_text(self.backbone, text, self.noise, guidance_times=guidance_times)

    def report(self, values: dict[str, Any], *, index: int = 0, loss: float = 0.0) -> None:
        """Tell the observer what was read."""
        self.on_step(Step(index=index, loss=loss, values=values))

    @property
    def words(self) -> tuple[str, str]:
        """The two sources, which must be words.

        Raises:
            ConfigError: If one is a picture.
        """
        first, second = self.sources
        if not isinstance(first, str) or not isinstance(second, str):
            raise ConfigError(f"sources: {self.method} mixes two words, and got a picture")
        return first, second

    @property
    def share(self) -> float:
        """The second source's share, 0 to 1; a half if the request names none."""
        weights = self.request.weights
        return float(weights[1][1]) if weights else 0.5

    def parents(self) -> list[Tensor]:
        """Return each source as pictures, ``[N, 3, H, W]``: the given ones, or drawn if a word.

        Raises:
            ShapeError: If a picture has another shape.
        """
        if self.pictures is not None:
            for pictures in self.pictures:
                check_shape("pictures", pictures, self.num, 3, None, None)
            return list(self.pictures)
        return [self._parent(source) for source in self.sources]

    @torch.no_grad()
    def _parent(self, source: Source) -> Tensor:
        if isinstance(source, str):
            return self.draw(self.encode(source))
        check_shape("source", source, 3, None, None)
        return source.expand(self.num, -1, -1, -1)


def check_phrases(subject: str, mixture: str) -> None:
    """Refuse phrases of a subject and of a pair that lack a place.

    Raises:
        PromptError: With the place that is missing.
    """
    fill(subject, subject="")
    fill(mixture, first="", second="")


def with_articles(words: Sequence[str]) -> dict[str, str]:
    """Return two words as ``first`` and ``second``, each with its article."""
    first, second = (f"{article(word)} {word}" for word in words)
    return {"first": first, "second": second}


class DrawsSubject(Method[Config]):
    """A method that draws a subject its own way; it learns no concept."""

    verbs = frozenset({"explore"})
    result = "pictures"

    def draw(
        self,
        backbone: Any,
        request: Request,
        *,
        judge: Any | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Tensor:
        """Return pictures of the subject, ``[N, 3, H, W]``, float32, 0 to 1, on the CPU.

        Args:
            backbone: Frozen; it fulfils ``needs``.
            request: The subject, the number of pictures N, and the seed.
            judge: Looks at pictures, where the method asks somebody.
            start: Number of the first picture. Picture i depends on the seed and i alone, and
                starts from the noise of ordinary picture i wherever the method allows it.
            on_step: Told what the method reads: see the class.

        Raises:
            ConfigError: If the judge or the settings do not suit the request.
        """
        return self.draw_subject(
            Drawing(
                method=self.name,
                backbone=backbone,
                request=request,
                start=start,
                on_step=on_step,
                judge=judge,
            )
        )

    def draw_subject(self, drawing: Drawing) -> Tensor:
        """Return the pictures: what a method of this kind defines."""
        raise NotImplementedError


class MixesSources(Method[Config]):
    """A method that draws a mixture of two sources itself; it learns no concept."""

    verbs = frozenset({"fuse", "sweep"})
    result = "pictures"

    def mix(
        self,
        backbone: Any,
        request: Request,
        sources: Sequence[Source],
        *,
        pictures: Sequence[Tensor] | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Tensor:
        """Return pictures of two sources, ``[N, 3, H, W]``, float32, 0 to 1, on the CPU.

        Args:
            backbone: Frozen; it fulfils ``needs``.
            request: The seed, the number of pictures N, the shares (each source's name and share,
                in the order of ``sources``), and a template with ``{subject}`` for words.
            sources: Words or pictures, ``[3, H, W]``, 0 to 1, as ``takes`` says.
            pictures: Ordinary pictures of each source, ``[N, 3, H, W]``, if drawn already.
            start: Number of the first picture: picture i depends on the seed and i alone.
            on_step: Told what the method reads: see the class.

        Raises:
            ConfigError: If a source is of a kind that the method does not take.
            ShapeError: If a picture has a shape that the checkpoint cannot work with.
        """
        return self.draw_mixture(
            Drawing(
                method=self.name,
                backbone=backbone,
                request=request,
                start=start,
                on_step=on_step,
                sources=sources,
                pictures=pictures,
            )
        )

    def draw_mixture(self, drawing: Drawing) -> Tensor:
        """Return the pictures: what a method of this kind defines."""
        raise NotImplementedError
