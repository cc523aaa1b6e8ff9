"""Draw embeddings of a concept on any backbone that has a prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from offbeat.errors import PromptError
from offbeat.protocols import HasCard, PriorBackbone
from offbeat.templates import fill
from offbeat.types import Concept, Request


def ordinary_prompt(backbone: PriorBackbone, request: Request) -> str:
    """Return the positive prompt, P_pos: the request's template or the checkpoint's own."""
    return fill(template_of(backbone, request), subject=request.subject)


def template_of(backbone: HasCard, request: Request) -> str:
    """Return the template with ``{subject}``: the request's or the checkpoint's own."""
    return request.prompt or str(backbone.card["prompt_template"])


def plain_concept(backbone: PriorBackbone, request: Request) -> Concept:
    """Return the subject itself as a concept of which nothing was learned."""
    template = fill(template_of(backbone, request), subject="{concept}")
    return Concept(template=template, subject=request.subject, word=request.subject)


def sample_concept(
    backbone: PriorBackbone,
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
