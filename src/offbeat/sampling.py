"""Draw embeddings of a concept on any backbone that gives them, and its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from offbeat.errors import PromptError
from offbeat.protocols import ExploringBackbone, HasCard, PriorBackbone
from offbeat.templates import fill
from offbeat.types import Concept, Request


def ordinary_prompt(backbone: ExploringBackbone, request: Request) -> str:
    """Return the positive prompt, P_pos: the request's template or the checkpoint's own."""
    return fill(template_of(backbone, request), subject=request.subject)


def template_of(backbone: HasCard, request: Request) -> str:
    """Return the template with ``{subject}``: the request's or the checkpoint's own."""
    return request.prompt or str(backbone.card["prompt_template"])


def plain_concept(backbone: ExploringBackbone, request: Request) -> Concept:
    """Return the subject itself as a concept of which nothing was learned."""
    template = fill(template_of(backbone, request), subject="{concept}")
    return Concept(template=template, subject=request.subject, word=request.subject)


def sample_concept(
    backbone: ExploringBackbone,
    concept: Concept,
    generators: Sequence[torch.Generator],
    *,
    template: str | None = None,
    **settings: Any,
) -> Tensor:
    """Return image embeddings of a concept, ``[B, D]``, on the CPU, one for each generator.

    Args:
        backbone: Where it was learned.
        concept: Token, LoRA factors or the embedding itself; gradients reach them.
        generators: One for each sample.
        template: Another prompt with ``{concept}``; None is the one it was learned in.
        settings: Passed to ``sample_prior``.
    """
    if concept.image_embeds is not None:
        if template is not None:
            raise PromptError(
                "prompt: this run learned an embedding itself (--space direct), which no prompt "
                "reaches; render it without --prompt"
            )
        return concept.image_embeds.expand(len(generators), -1)
    text = backbone.encode_text([concept.prompt(template)], tokens=concept.token_embeds)
    return backbone.sample_prior(
        text, generator=generators, num_samples=len(generators), lora=concept.lora, **settings
    ).cpu()


def draw_concept(
    backbone: Any,
    concept: Concept,
    prior: Sequence[torch.Generator],
    image: Sequence[torch.Generator],
    **settings: Any,
) -> Tensor:
    """Return pictures of a concept, ``[B, 3, H, W]``, 0 to 1, on the CPU.

    Args:
        backbone: One that decodes embeddings, or reads them of pictures that it draws from text.
        concept: What to draw.
        prior: Streams of the embeddings, one for each; of the whole picture where it is read.
        image: Streams of the decoding.
        settings: Passed to ``sample_prior``, or in their place to ``draw_text``.
    """
    if isinstance(backbone, PriorBackbone):
        embeds = sample_concept(backbone, concept, prior, **settings)
        return backbone.decode_embeds(embeds.to(backbone.device), generator=image).cpu()
    settings["guidance_scale"] = settings.pop("prior_guidance_scale", None)
    text = backbone.encode_text([concept.prompt()], tokens=concept.token_embeds)
    with backbone.adapted(concept.lora):
        images: Tensor = backbone.draw_text(text, generator=prior, **settings)
    return images.cpu()
