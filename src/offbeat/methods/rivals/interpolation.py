"""Interpolation: the point between two words' embeddings, on a straight line or a great circle.

In ``text`` space what the encoder says of both prompts is mixed, position by position, and drawn;
in ``image`` space, where there is a prior, what the prior makes of both from one noise.
Source of the great circle: Shoemake, Animating rotation with quaternion curves (1985).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from offbeat.core.drawing import embeds_of_text
from offbeat.core.functional import slerp
from offbeat.errors import CapabilityError
from offbeat.methods.pictures import Drawing, MixesSources
from offbeat.methods.settings import Settings, setting
from offbeat.protocols import PriorBackbone, TextBackbone
from offbeat.types import TextEmbeds

NAME = "interpolation"
Space = Literal["text", "image"]
Way = Literal["linear", "spherical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InterpolationConfig(Settings):
    """Where embeddings are mixed, and along which line."""

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
    rows = first.flatten(0, -2)
    return slerp(rows, second.flatten(0, -2), rows.new_full((len(rows),), share)).view_as(first)


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


class Interpolation(MixesSources[InterpolationConfig]):
    """What is drawn from between two words; ordinary pictures are not read.

    ``space=image`` on a checkpoint without a prior is a ``CapabilityError``.
    """

    name = NAME
    config_class = InterpolationConfig
    needs = TextBackbone
    takes_weights = True

    @torch.no_grad()
    def draw_mixture(self, drawing: Drawing) -> Tensor:
        """Return pictures from between two words, at the second word's share."""
        share, way, backbone = drawing.share, self.config.way, drawing.backbone
        texts = drawing.encode(*drawing.words)
        if self.config.space == "text":
            return drawing.draw(texts_between(texts, share, way))
        if not isinstance(backbone, PriorBackbone):
            raise CapabilityError(f"{NAME} in space=image", backbone.name, "sample_prior", PRIORS)
        first, second = (embeds_of_text(backbone, texts[[row]], drawing.noise) for row in (0, 1))
        image_embeds = between(first, second, share, way)
        return backbone.decode_embeds(image_embeds, generator=drawing.noise.image).cpu()


PRIORS = ("pocket", "kandinsky-2.1", "kandinsky-2.2")
"""Built-in checkpoints that have a prior: what an error points to."""
