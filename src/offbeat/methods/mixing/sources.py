"""What methods share that mix two sources: their pictures, their noise, their prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from offbeat.core.checks import check_shape
from offbeat.core.drawing import template_of
from offbeat.core.rng import streams
from offbeat.core.templates import fill
from offbeat.errors import ConfigError
from offbeat.protocols import DrawingBackbone, HasCard
from offbeat.protocols.methods import Source
from offbeat.types import Request


def noises(request: Request, start: int) -> list[torch.Generator]:
    """Return the streams that ordinary pictures of any word are drawn from: one for each."""
    return streams(request.seed, "image", "decoder", num=request.num_images, start=start)


def prompt_of(backbone: HasCard, request: Request, word: str) -> str:
    """Return the prompt in which a word stands: the request's or the checkpoint's own."""
    return fill(template_of(backbone, request), subject=word)


def pictures_of(
    backbone: DrawingBackbone,
    request: Request,
    sources: Sequence[Source],
    pictures: Sequence[Tensor] | None,
    start: int,
) -> list[Tensor]:
    """Return each source as pictures, ``[N, 3, H, W]``: drawn if it is a word.

    Args:
        backbone: Draws them.
        request: How many, and the seed.
        sources: Words or pictures.
        pictures: The same, if they are there already.
        start: Number of the first.

    Raises:
        ShapeError: If a picture is none.
    """
    if pictures is not None:
        for one in pictures:
            check_shape("pictures", one, request.num_images, 3, None, None)
        return list(pictures)
    found = []
    for source in sources:
        if isinstance(source, str):
            text = backbone.encode_text([prompt_of(backbone, request, source)])
            found.append(backbone.draw_text(text, generator=noises(request, start)))
        else:
            check_shape("source", source, 3, None, None)
            found.append(source.expand(request.num_images, -1, -1, -1))
    return found


def share_of(request: Request) -> float:
    """Return the second source's share, 0 to 1; a half if the request names none."""
    return float(request.weights[1][1]) if request.weights else 0.5


def two_words(name: str, sources: Sequence[Source]) -> tuple[str, str]:
    """Return two sources that must be words.

    Raises:
        ConfigError: If they are not.
    """
    first, second = sources
    if not isinstance(first, str) or not isinstance(second, str):
        raise ConfigError(f"sources: {name} mixes two words, and got a picture")
    return first, second
