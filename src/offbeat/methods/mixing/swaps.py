"""Exchange columns of two prompts' text embeddings, and draw the result.

Source: the swap operator of BASS, arXiv:2310.01819, which AGSwap, arXiv:2509.18699, shares.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from offbeat.core.checks import check_shape
from offbeat.core.functional import pair_cosine
from offbeat.methods.pictures import Drawing
from offbeat.types import TextEmbeds


def half_ones(width: int, generator: torch.Generator) -> Tensor:
    """Return which columns come from the first prompt, ``[E]``, bool: half of them."""
    columns = torch.zeros(width, dtype=torch.bool)
    columns[torch.randperm(width, generator=generator)[: width // 2]] = True
    return columns


def swapped(first: TextEmbeds, second: TextEmbeds, columns: Tensor) -> TextEmbeds:
    """Return F prompts, ``E1 diag(f) + E2 diag(1 - f)``: each column is one parent's.

    Pooled vectors, which some U-Nets hear too, are exchanged by the same columns, repeated where
    they are wider.

    Args:
        first: One prompt, E1.
        second: One prompt, E2.
        columns: True where a column is the first's, ``[F, E]``, bool.

    Raises:
        ShapeError: If there is not a choice for every column.
    """
    width = first.text_encoder_hidden_states.shape[-1]
    check_shape("columns", columns, None, width)
    chosen = columns.to(first.text_embeds.device)
    pooled = chosen[:, torch.arange(first.text_embeds.shape[-1], device=chosen.device) % width]
    return replace(
        first,
        text_embeds=torch.where(pooled, first.text_embeds, second.text_embeds),
        text_encoder_hidden_states=torch.where(
            chosen[:, None],
            first.text_encoder_hidden_states,
            second.text_encoder_hidden_states,
        ),
        text_mask=(first.text_mask | second.text_mask).expand(len(columns), -1),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Swapping:
    """Two encoded words, and how pictures between them are drawn and compared."""

    drawing: Drawing
    texts: tuple[TextEmbeds, TextEmbeds]
    """Of each word."""
    steering: dict[str, Any]
    """Steps and guidance that pictures are drawn with."""

    @classmethod
    def of(cls, drawing: Drawing, steps: int | None, guidance_scale: float | None) -> Swapping:
        """Encode the two words, each in the prompt of the request."""
        first, second = drawing.words
        return cls(
            drawing=drawing,
            texts=(drawing.encode(first), drawing.encode(second)),
            steering={"num_inference_steps": steps, "guidance_scale": guidance_scale},
        )

    @property
    def width(self) -> int:
        """Number of columns, E."""
        return int(self.texts[0].text_encoder_hidden_states.shape[-1])

    def draw(self, columns: Tensor, rows: list[int]) -> Tensor:
        """Return a picture for each choice of columns, ``[F, 3, H, W]``, on the CPU.

        Args:
            columns: ``[F, E]``, bool.
            rows: Whose noise each is drawn from, F numbers of pictures, from 0.
        """
        # a stream of its own for each: the same row may stand here several times
        noise = [self.drawing.noise.image[row] for row in rows]
        text = swapped(*self.texts, columns)
        images: Tensor = self.drawing.backbone.draw_text(text, generator=noise, **self.steering)
        return images.cpu()

    def read(self, images: Tensor) -> Tensor:
        """Return CLIP embeddings of pictures, ``[B, D]``, on the CPU."""
        encode = self.drawing.backbone.encode_image
        return torch.cat([encode(part).cpu() for part in images.split(16)])


def similarities(embeds: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines of pictures' embeddings, ``[B, D]``, to both parents', ``[B]`` each."""
    return pair_cosine(embeds, first), pair_cosine(embeds, second)
