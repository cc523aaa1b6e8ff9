"""Interpolation: the point between two words' embeddings, on a straight line or a great circle.

In ``text`` space what the encoder says of both prompts is mixed, position by position, and drawn;
in ``image`` space, where there is a prior, what the prior makes of both from one noise.
Source of the great circle: Shoemake, Animating rotation with quaternion curves (1985).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from offbeat.core.drawing import Noise, draw_from_text, embeds_of_text
from offbeat.core.functional import slerp
from offbeat.errors import CapabilityError
from offbeat.methods.mixing.sources import prompt_of, share_of, two_words
from offbeat.methods.settings import Method, Settings, setting
from offbeat.protocols import ExploringBackbone, PriorBackbone, TextBackbone
from offbeat.protocols.methods import Source
from offbeat.types import OnStep, Request, TextEmbeds, ignore_step

NAME = "interpolation"
Space = Literal["text", "image"]
Way = Literal["linear", "spherical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InterpolationConfig(Settings):
    """Where and how, saved as it was asked."""

    method = NAME

    space: Space = setting(
        "text", help="Interpolate the prompts' embeddings, or those of the prior."
    )
    way: Way = setting("spherical", help="Along a straight line or a great circle.")


def between(first: Tensor, second: Tensor, share: float, way: Way) -> Tensor:
    """Return the vectors between those of two tensors; shares 0 and 1 give the tensors themselves.

    Args:
        first: ``[..., D]``.
        second: Of the same shape.
        share: The second's, 0 to 1.
        way: Straight, or along the great circle of each pair of vectors.
    """
    if way == "linear":
        return torch.lerp(first, second, share)
    one, other = first.flatten(0, -2), second.flatten(0, -2)
    return slerp(one, other, one.new_full((len(one),), share)).view_as(first)


def texts_between(texts: TextEmbeds, share: float, way: Way) -> TextEmbeds:
    """Return one prompt between the two of ``texts``; a position counts that either prompt fills.

    The shorter prompt brings what its encoder says at its padding there.
    """
    pooled = between(texts.text_embeds[:1], texts.text_embeds[1:], share, way)
    states = texts.text_encoder_hidden_states
    mask = texts.text_mask.any(dim=0, keepdim=True)
    ends = {0.0: texts.text_mask[:1], 1.0: texts.text_mask[1:]}
    return replace(
        texts,
        text_embeds=pooled,
        text_encoder_hidden_states=between(states[:1], states[1:], share, way),
        text_mask=ends.get(share, mask),
    )


class Interpolation(Method[InterpolationConfig]):
    """What is drawn from between two words."""

    name = NAME
    config_class = InterpolationConfig
    needs = TextBackbone
    verbs = frozenset({"fuse", "sweep"})
    result = "pictures"
    takes_weights = True

    @torch.no_grad()
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
        """Return pictures from between two words, ``[N, 3, H, W]``, 0 to 1, on the CPU.

        Args:
            backbone: Frozen.
            request: The seed, the number of pictures, the shares, and a template.
            sources: Two words.
            pictures: Unused: embeddings are mixed, and no pictures.
            start: Number of the first picture.
            on_step: Unused: there is no search.

        Raises:
            CapabilityError: If image embeddings are asked for and there is no prior.
            ConfigError: If a source is a picture.
        """
        words, share = two_words(NAME, sources), share_of(request)
        noise = Noise.ordinary(request, start)
        texts = backbone.encode_text([prompt_of(backbone, request, word) for word in words])
        if self.config.space == "text":
            text = texts_between(texts, share, self.config.way)
            return draw_from_text(backbone, text, noise)
        return self._of_embeds(backbone, texts, share, request, start)

    def _of_embeds(
        self, backbone: Any, texts: TextEmbeds, share: float, request: Request, start: int
    ) -> Tensor:
        if not isinstance(backbone, ExploringBackbone):
            raise CapabilityError(f"{NAME} in space=image", backbone.name, "sample_prior", PRIORS)
        prior: PriorBackbone = backbone  # type: ignore[assignment]
        ends = []
        for row in (slice(0, 1), slice(1, 2)):
            text = replace(
                texts,
                text_embeds=texts.text_embeds[row],
                text_encoder_hidden_states=texts.text_encoder_hidden_states[row],
                text_mask=texts.text_mask[row],
            )
            ends.append(embeds_of_text(prior, text, Noise.ordinary(request, start)))
        image_embeds = between(ends[0], ends[1], share, self.config.way)
        noise = Noise.ordinary(request, start)
        return prior.decode_embeds(image_embeds, generator=noise.image).cpu()


PRIORS = ("pocket", "kandinsky-2.1", "kandinsky-2.2")
"""Built-in checkpoints that have a prior: what an error points to."""
