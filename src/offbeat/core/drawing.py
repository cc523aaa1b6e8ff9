"""Draw pictures from text by a checkpoint of either form, with or without a prior."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from offbeat.core.parts import calls, is_shared
from offbeat.core.rng import stream, streams
from offbeat.core.templates import fill
from offbeat.errors import CapabilityError, ConfigError, PromptError
from offbeat.protocols import (
    DrawingBackbone,
    ExploringBackbone,
    PriorBackbone,
    TextBackbone,
)
from offbeat.protocols.capabilities import backbones_with
from offbeat.types import Concept, Observe, Request, TextEmbeds, ignore

DRAW_BATCH = 4
"""Pictures that a method draws at once."""
CHUNK = 8
"""Pictures between two progress reports on the CPU; each has its own streams."""

JUDGED_STEPS, MANY_STEPS = 16, 25
"""Denoising steps of what only a judge sees, where a checkpoint takes more than the second."""


def judged_steps(backbone: Any, concept: Concept | None = None) -> int:
    """Return the denoising steps of a picture that a judge or an eye sees, and nobody else.

    Args:
        backbone: Whose card says the steps of others.
        concept: Which may say them instead.
    """
    said = {} if concept is None else decoding_settings(concept)
    own = int(said.get("num_inference_steps", backbone.card["num_inference_steps"]))
    return JUDGED_STEPS if own > MANY_STEPS else own


@dataclass(frozen=True, slots=True)
class Noise:
    """The streams that pictures are drawn from, two for each; text alone leaves the first unread.

    Streams are used up: make them anew for each drawing.
    """

    prior: list[torch.Generator]
    image: list[torch.Generator]

    @classmethod
    def of(cls, seed: int, *purpose: str | int, num: int, start: int = 0) -> Noise:
        """Return the streams of pictures ``start`` to ``start + num`` of a purpose."""
        return cls(
            streams(seed, *purpose, "prior", num=num, start=start),
            streams(seed, *purpose, "decoder", num=num, start=start),
        )

    @classmethod
    def ordinary(cls, request: Request, start: int = 0) -> Noise:
        """Return those that every command draws the ordinary pictures of a request from."""
        return cls.of(request.seed, "image", num=request.num_images, start=start)


@torch.no_grad()
def draw_from_text(
    backbone: Any,
    text: TextEmbeds,
    noise: Noise,
    *,
    guidance_times: float = 1.0,
    num_inference_steps: int | None = None,
) -> Tensor:
    """Return pictures of a text, ``[N, 3, H, W]``, 0 to 1, on the CPU.

    Args:
        backbone: Draws from text itself, or has a prior.
        text: One prompt for all, or one for each.
        noise: Of N pictures.
        guidance_times: Multiplies the checkpoint's own guidance scales, above 0.
        num_inference_steps: Of the pictures' denoising; None is the checkpoint's own.
    """
    card = backbone.card
    steering = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_times * float(card["guidance_scale"]),
    }
    if isinstance(backbone, DrawingBackbone):
        return backbone.draw_text(text, generator=noise.image, **steering).cpu()  # type: ignore[arg-type]
    image_embeds = embeds_of_text(backbone, text, noise, guidance_times=guidance_times)
    images: Tensor = backbone.decode_embeds(image_embeds, generator=noise.image, **steering)
    return images.cpu()


@torch.no_grad()
def embeds_of_text(
    backbone: Any, text: TextEmbeds, noise: Noise, *, guidance_times: float = 1.0
) -> Tensor:
    """Return what a prior makes of a text, ``[N, D]``, with the settings of ordinary pictures."""
    scale = guidance_times * float(backbone.card["prior_guidance_scale"])
    image_embeds: Tensor = backbone.sample_prior(
        text, generator=noise.prior, num_samples=len(noise.prior), prior_guidance_scale=scale
    )
    return image_embeds


def prior_settings(concept: Concept) -> dict[str, Any]:
    """Return the prior's settings that the concept was learned with: distances hold for those."""
    metadata = concept.metadata
    settings: dict[str, Any] = {}
    if "prior_num_inference_steps" in metadata:
        settings["num_inference_steps"] = int(metadata["prior_num_inference_steps"])
    if "prior_guidance_scale" in metadata:
        settings["prior_guidance_scale"] = float(metadata["prior_guidance_scale"])
    return settings


def decoding_settings(concept: Concept) -> dict[str, Any]:
    """Return steps and guidance of the decoder that go with a concept, if any do."""
    kinds = {"num_inference_steps": int, "guidance_scale": float}
    return {n: kind(concept.metadata[n]) for n, kind in kinds.items() if n in concept.metadata}


def search_decoding(concept: Concept) -> dict[str, Any]:
    """Return steps and guidance that a text-drawing checkpoint's pictures were read at."""
    settings = prior_settings(concept)
    return {
        "num_inference_steps": settings.get("num_inference_steps"),
        "guidance_scale": settings.get("prior_guidance_scale"),
    }


def plain_concept_of(word: str, backbone: TextBackbone, prompt: str | None = None) -> Concept:
    """Return a word as a concept of which nothing was learned."""
    template = fill(str(backbone.card["prompt_template"]), subject="{concept}")
    return Concept(template=template if prompt is None else prompt, subject=word, word=word)


def draw(
    backbone: TextBackbone,
    concept: Concept,
    *,
    seed: int,
    num: int,
    purpose: str = "image",
    rows: Sequence[int] | None = None,
    template: str | None = None,
    negative_prompt: str = "",
    decoding: Mapping[str, Any] | None = None,
    image_prompt: Tensor | None = None,
    image_weight: float | None = None,
    observe: Observe = ignore,
    stage: str = "drawing",
) -> Tensor:
    """Return images ``[B, 3, H, W]`` of a concept, on the CPU, by a checkpoint of either form.

    Image i depends on the concept, the seed and i alone: two concepts share their noise.

    Args:
        backbone: The checkpoint: with a prior, or drawing from text itself.
        concept: What to draw; its metadata may hold the prior's settings.
        seed: Of all noise.
        num: Pictures.
        purpose: Name of the streams.
        rows: Numbers of the pictures to draw; None draws the first ``num``.
        template: Another prompt with ``{concept}``.
        negative_prompt: What guidance steers from, in the prior too where there is one.
        decoding: Steps and guidance of the decoder, and what else it is told; None is what goes
            with the concept, or the checkpoint's own.
        image_prompt: A picture as prompt, ``[1, D]``, from ``encode_image``.
        image_weight: Its weight beside the text, as its IP-Adapter takes it; with a prior its
            share, 0 to 1. None is the checkpoint's own, or a half.
        observe: Told how far it is.
        stage: Under this name.

    Raises:
        CapabilityError: If the checkpoint cannot draw what this concept is made of.
    """
    settings: dict[str, Any] = {
        "seed": seed,
        "num": num,
        "purpose": purpose,
        "rows": rows,
        "template": template,
        "negative_prompt": negative_prompt,
        "decoding": decoding,
        "image_prompt": image_prompt,
        "image_weight": image_weight,
        "observe": observe,
        "stage": stage,
    }
    if isinstance(backbone, PriorBackbone):
        return draw_embeds(backbone, concept, **settings)[1]
    missing = "draw_text"
    if isinstance(backbone, DrawingBackbone):
        if adapts_only(concept, backbone) and concept.image_embeds is None:
            return _draw_text(backbone, concept, **settings)
        # LoRA factors are the prior's, and embeddings are what it makes
        missing = "sample_prior" if concept.image_embeds is None else "decode_embeds"
    raise CapabilityError("drawing this concept", backbone.name, missing, backbones_with(missing))


def scaled(concept: Concept, backbone: TextBackbone, strength: float) -> Concept:
    """Return a concept of another strength: 1 is the concept, 0 its subject, below 0 its contrary.

    A learned token moves on the line through it and the subject's own vector; LoRA factors are
    multiplied.

    Raises:
        ConfigError: If the concept is a learned embedding, which no word is the zero of.
    """
    if strength == 1:
        return concept
    if concept.image_embeds is not None:
        raise ConfigError(
            "strength: an embedding (--space direct) has no strength; leave the number out"
        )
    zero = backbone.token_embed(concept.subject)

    def moved(rows: Tensor) -> Tensor:
        rows = rows.float()
        there = torch.cat(  # zeros fill up the rows of an encoder that has fewer
            [
                part.any(dim=-1, keepdim=True).expand_as(part)
                for part in rows.split([width for _, width, _ in backbone.token_layout], dim=-1)  # type: ignore[attr-defined]
            ],
            dim=-1,
        )
        return torch.where(there, zero + strength * (rows - zero), rows)

    return replace(
        concept,
        token_embeds={word: moved(rows) for word, rows in concept.token_embeds.items()},
        lora={
            name: factor * strength if ".lora_B." in name else factor
            for name, factor in concept.lora.items()
        },
    )


def adapts_only(concept: Concept, backbone: DrawingBackbone) -> bool:
    """Return whether all factors of a concept, if it has any, are of what draws from text."""
    parts = backbone.lora_parts() if hasattr(backbone, "lora_parts") else ()
    return all(name.partition(".")[0] in parts for name in concept.lora)


def draw_embeds(
    backbone: ExploringBackbone,
    concept: Concept,
    *,
    seed: int,
    num: int,
    purpose: str = "image",
    rows: Sequence[int] | None = None,
    template: str | None = None,
    negative_prompt: str = "",
    decoding: Mapping[str, Any] | None = None,
    image_prompt: Tensor | None = None,
    image_weight: float | None = None,
    observe: Observe = ignore,
    stage: str = "drawing",
) -> tuple[Tensor, Tensor]:
    """Return embeddings ``[B, D]`` and images ``[B, 3, H, W]``, on the CPU: ``draw`` with both.

    Where embeddings are readings of pictures, they are those of the pictures that are drawn.
    """
    settings = prior_settings(concept)
    numbers = range(num) if rows is None else rows
    if not isinstance(backbone, PriorBackbone):
        images = draw(
            backbone,
            concept,
            seed=seed,
            num=num,
            purpose=purpose,
            rows=rows,
            template=template,
            negative_prompt=negative_prompt,
            decoding={**search_decoding(concept), **(decoding or {})},
            image_prompt=image_prompt,
            image_weight=image_weight,
            observe=observe,
            stage=stage,
        )
        with torch.no_grad():
            read = [backbone.encode_image(part).cpu() for part in images.split(DRAW_BATCH)]
        return torch.cat(read), images
    with torch.no_grad():
        steering: dict[str, Any] = {}
        if negative_prompt:
            negative = backbone.encode_text([negative_prompt])
            noise = streams(seed, purpose, "negative", num=1)
            plain = {**settings, "prior_guidance_scale": 1.0}
            embeds = backbone.sample_prior(negative, generator=noise, **plain)
            steering["negative_image_embeds"] = embeds
            settings["negative"] = negative
        decoder = decoding_settings(concept) | {
            name: value for name, value in (decoding or {}).items() if value is not None
        }
        image_embeds = sample_concept(
            backbone,
            concept,
            [stream(seed, purpose, "prior", row) for row in numbers],
            template=template,
            **settings,
        )
        if image_prompt is not None:  # a weighted mean of points, as Kandinsky's pipelines take it
            share = 0.5 if image_weight is None else image_weight
            image_embeds = share * image_prompt.cpu() + (1 - share) * image_embeds

        def decode(start: int, noise: list[torch.Generator]) -> dict[str, Any]:
            chunk = image_embeds[start : start + len(noise)].to(backbone.device)
            return {"image_embeds": chunk, "generator": noise, **decoder, **steering}

        images = _in_chunks(
            partial(calls, backbone, "decode_embeds"),
            decode,
            seed,
            numbers,
            purpose,
            observe,
            stage,
            _chunk_size(backbone),
        )
    return image_embeds, images


def _draw_text(
    backbone: DrawingBackbone,
    concept: Concept,
    *,
    seed: int,
    num: int,
    purpose: str,
    rows: Sequence[int] | None,
    template: str | None,
    negative_prompt: str,
    decoding: Mapping[str, Any] | None,
    image_prompt: Tensor | None,
    image_weight: float | None,
    observe: Observe,
    stage: str,
) -> Tensor:
    """Return images of a concept by a checkpoint that draws from text itself."""
    adapted: AbstractContextManager[None] = nullcontext()
    if concept.lora:
        adapted = backbone.adapted(concept.lora)  # type: ignore[attr-defined]
    with torch.no_grad(), adapted:
        text = backbone.encode_text([concept.prompt(template)], tokens=concept.token_embeds)
        read = getattr(backbone, "encode_negative", backbone.encode_text)
        negative = read([negative_prompt]) if negative_prompt else None

        def drawn(start: int, noise: list[torch.Generator]) -> dict[str, Any]:
            told = {"text": text, "generator": noise, "negative": negative, **(decoding or {})}
            if image_prompt is not None:
                told |= {"image_embeds": image_prompt, "ip_adapter_scale": image_weight}
            return told

        def here(arguments: Iterable[Mapping[str, Any]]) -> Iterator[Tensor]:
            return (backbone.draw_text(**one).cpu() for one in arguments)

        numbers = range(num) if rows is None else rows
        # only this process has the factors in place
        made = here if concept.lora else partial(calls, backbone, "draw_text")
        size = _chunk_size(backbone)
        return _in_chunks(made, drawn, seed, numbers, purpose, observe, stage, size)


def _chunk_size(backbone: Any) -> int:
    """Return how many pictures are drawn between two progress reports.

    On the CPU always as many, so that no picture's rounding depends on the memory; on an
    accelerator as many as its memory is for.
    """
    if backbone.device.type == "cpu" or is_shared():
        return CHUNK
    return max(CHUNK, int(backbone.card.get("decode_batch_size", CHUNK)))


def _in_chunks(
    made: Callable[[Iterable[Mapping[str, Any]]], Iterator[Tensor]],
    arguments: Callable[[int, list[torch.Generator]], Mapping[str, Any]],
    seed: int,
    numbers: Sequence[int],
    purpose: str,
    observe: Observe,
    stage: str,
    size: int,
) -> Tensor:
    """Return the images of these numbers; ``arguments`` is given a place in them and streams."""
    parts: list[Tensor] = []
    starts = range(0, len(numbers), size)
    chunks = ((start, numbers[start : start + size]) for start in starts)
    asked = (
        arguments(start, [stream(seed, purpose, "decoder", row) for row in chunk])
        for start, chunk in chunks
    )
    for part in made(asked):
        parts.append(part)
        observe(stage, min(len(parts) * size, len(numbers)), len(numbers), {})
    return torch.cat(parts)


def ordinary_prompt(backbone: ExploringBackbone, request: Request) -> str:
    """Return the positive prompt, P_pos: the request's template or the checkpoint's own."""
    return fill(template_of(backbone, request), subject=request.subject)


def template_of(backbone: TextBackbone, request: Request) -> str:
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
    """Return pictures of a concept for a judge, ``[B, 3, H, W]``, 0 to 1, on the CPU.

    Args:
        backbone: One that decodes embeddings, or reads them of pictures that it draws from text.
        concept: What to draw.
        prior: Streams of the embeddings, one for each; of the whole picture where it is read.
        image: Streams of the decoding.
        settings: Passed to ``sample_prior``, or in their place to ``draw_text``.
    """
    if isinstance(backbone, PriorBackbone):
        embeds = sample_concept(backbone, concept, prior, **settings)
        return backbone.decode_embeds(
            embeds.to(backbone.device), generator=image, num_inference_steps=judged_steps(backbone)
        ).cpu()
    settings["guidance_scale"] = settings.pop("prior_guidance_scale", None)
    text = backbone.encode_text([concept.prompt()], tokens=concept.token_embeds)
    with backbone.adapted(concept.lora):
        images: Tensor = backbone.draw_text(text, generator=prior, **settings)
    return images.cpu()
