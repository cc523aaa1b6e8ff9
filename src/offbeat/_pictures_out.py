"""Draw a concept's pictures and turn them into files; shared by every command that draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offbeat import formats, plots
from offbeat._capabilities import backbones_with
from offbeat._disk import digest_of
from offbeat.errors import CapabilityError
from offbeat.protocols import (
    AdaptsDenoiser,
    DecodesEmbeds,
    DrawingBackbone,
    ExploringBackbone,
    HasCard,
    PriorBackbone,
    SplitsTokens,
    TextBackbone,
)
from offbeat.rng import streams
from offbeat.sampling import sample_concept
from offbeat.templates import fill
from offbeat.types import Concept, Observe, ignore

if TYPE_CHECKING:
    from PIL import Image

DRAW_BATCH = 4
"""Pictures between two progress reports; each has its own streams, so it changes no picture."""


def prior_settings(concept: Concept) -> dict[str, Any]:
    """Return the prior's settings that the concept was learned with: distances hold for those."""
    found = concept.metadata
    settings: dict[str, Any] = {}
    if "prior_num_inference_steps" in found:
        settings["num_inference_steps"] = int(found["prior_num_inference_steps"])
    if "prior_guidance_scale" in found:
        settings["prior_guidance_scale"] = float(found["prior_guidance_scale"])
    return settings


def plain_concept_of(word: str, backbone: TextBackbone, prompt: str | None = None) -> Concept:
    """Return a word as a concept of which nothing was learned."""
    own = fill(str(backbone.card["prompt_template"]), subject="{concept}")
    return Concept(template=own if prompt is None else prompt, subject=word, word=word)


def draw(
    backbone: TextBackbone,
    concept: Concept,
    *,
    seed: int,
    num: int,
    purpose: str = "image",
    template: str | None = None,
    negative_prompt: str = "",
    decoding: Mapping[str, Any] | None = None,
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
        template: Another prompt with ``{concept}``.
        negative_prompt: What guidance steers from, in the prior too where there is one.
        decoding: Steps and guidance of the decoder; None is the checkpoint's own.
        observe: Told how far it is.
        stage: Under this name.

    Raises:
        CapabilityError: If the checkpoint cannot draw what this concept is made of.
    """
    settings: dict[str, Any] = {
        "seed": seed,
        "num": num,
        "purpose": purpose,
        "template": template,
        "negative_prompt": negative_prompt,
        "decoding": decoding,
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


def adapts_only(concept: Concept, backbone: DrawingBackbone) -> bool:
    """Return whether all factors of a concept, if it has any, are of the denoiser."""
    able = isinstance(backbone, AdaptsDenoiser)
    return not concept.lora or (able and all(name.startswith("unet.") for name in concept.lora))


def draw_embeds(
    backbone: ExploringBackbone,
    concept: Concept,
    *,
    seed: int,
    num: int,
    purpose: str = "image",
    template: str | None = None,
    negative_prompt: str = "",
    decoding: Mapping[str, Any] | None = None,
    observe: Observe = ignore,
    stage: str = "drawing",
) -> tuple[Tensor, Tensor]:
    """Return embeddings ``[B, D]`` and images ``[B, 3, H, W]``, on the CPU: ``draw`` with both.

    Where embeddings are readings of pictures, they are those of the pictures that are drawn.
    """
    settings = prior_settings(concept)
    if not isinstance(backbone, DecodesEmbeds):
        steps, scale = settings.get("num_inference_steps"), settings.get("prior_guidance_scale")
        images = draw(
            backbone,
            concept,
            seed=seed,
            num=num,
            purpose=purpose,
            template=template,
            negative_prompt=negative_prompt,
            decoding={"num_inference_steps": steps, "guidance_scale": scale, **(decoding or {})},
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
        image_embeds = sample_concept(
            backbone,
            concept,
            streams(seed, purpose, "prior", num=num),
            template=template,
            **settings,
        )

        def decode(start: int, noise: list[torch.Generator]) -> Tensor:
            chunk = image_embeds[start : start + len(noise)].to(backbone.device)
            return backbone.decode_embeds(chunk, generator=noise, **(decoding or {}), **steering)

        images = _in_chunks(decode, seed, num, purpose, observe, stage)
    return image_embeds, images


def _draw_text(
    backbone: DrawingBackbone,
    concept: Concept,
    *,
    seed: int,
    num: int,
    purpose: str,
    template: str | None,
    negative_prompt: str,
    decoding: Mapping[str, Any] | None,
    observe: Observe,
    stage: str,
) -> Tensor:
    """Return images of a concept by a checkpoint that draws from text itself."""
    adapted: AbstractContextManager[None] = nullcontext()
    if concept.lora and isinstance(backbone, AdaptsDenoiser):
        adapted = backbone.adapted(concept.lora)
    with torch.no_grad(), adapted:
        text = backbone.encode_text([concept.prompt(template)], tokens=concept.token_embeds)
        negative = backbone.encode_text([negative_prompt]) if negative_prompt else None

        def drawn(start: int, noise: list[torch.Generator]) -> Tensor:
            return backbone.draw_text(text, generator=noise, negative=negative, **(decoding or {}))

        return _in_chunks(drawn, seed, num, purpose, observe, stage)


def _in_chunks(
    drawn: Callable[[int, list[torch.Generator]], Tensor],
    seed: int,
    num: int,
    purpose: str,
    observe: Observe,
    stage: str,
) -> Tensor:
    """Return ``num`` images; ``drawn`` is given the first's number and a stream for each."""
    parts = []
    for start in range(0, num, DRAW_BATCH):
        size = min(DRAW_BATCH, num - start)
        noise = streams(seed, purpose, "decoder", num=size, start=start)
        parts.append(drawn(start, noise).cpu())
        observe(stage, start + size, num, {})
    return torch.cat(parts)


def made_on(backbone: HasCard) -> dict[str, Any]:
    """Return what the file of a concept says of the checkpoint that it was learned on."""
    layout = backbone.token_layout if isinstance(backbone, SplitsTokens) else ()
    return {
        "fingerprint": backbone.fingerprint,
        "checkpoint": backbone.name,
        "layout": layout,
        "architecture": formats.architecture_of(
            [name for name, _, _ in layout], has_prior=isinstance(backbone, PriorBackbone)
        ),
        "licence": str(backbone.card.get("licence", "")),
    }


MAX_EMBEDDED = 2**16
"""Bytes of a concept that each of its pictures keeps inside: tokens fit, LoRA factors do not."""

GIVEN, BY_METHOD = {"by": "nobody"}, {"by": "method"}
"""How pictures came about that ``draw`` did not draw: shown as given, or drawn by a method."""


def png_files(
    folder: str,
    pictures: Sequence[Image.Image],
    request: Mapping[str, Any],
    concept: Concept,
    backbone: HasCard,
    *,
    seed: int | None = None,
    start: int = 0,
    drawing: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """Return the files of pictures, numbered from ``start``, each with the recipe to draw it.

    Args:
        folder: Of the files.
        pictures: All that were drawn together.
        request: What was asked.
        concept: What was drawn.
        backbone: By whom.
        seed: Of the noise; None is the request's.
        start: The first's number.
        drawing: What else ``draw`` was told, or ``GIVEN``, or ``BY_METHOD``.
    """
    learned = bool(concept.token_embeds or concept.lora or concept.image_embeds is not None)
    shown = concept.prompt(request["prompt"] if request.get("verb") == "render" else None)
    recipe = {
        **request,
        "prompt": shown.replace(concept.word, f"[{concept.subject}]") if learned else shown,
        "request": dict(request),
        "seed": request["seed"] if seed is None else seed,
        **{
            name: request.get(name, backbone.card[name])
            for name in ("num_inference_steps", "guidance_scale")
        },
        "method": concept.metadata.get("method", "ordinary"),
        "scheduler": backbone.card.get("scheduler"),
        "novelty": _dial(request) if learned else None,
        "version": request["versions"].get("offbeat"),
    }
    how = {"by": "draw", "num": len(pictures), "purpose": "image", **(drawing or {})}
    inside = None
    if how["by"] == "draw":
        own = concept_of(concept, backbone)
        how["concept"] = digest_of(b"".join(own[name] for name in sorted(own)))
        small = len(own) == 1 and len(own[formats.CONCEPT_FILE]) <= MAX_EMBEDDED
        inside = own[formats.CONCEPT_FILE] if small else None
    return {
        f"{folder}/{start + index:04d}.png": formats.encode_png(
            picture,
            {**recipe, "index": index, "drawing": {**how, "start": start}},
            concept=inside,
        )
        for index, picture in enumerate(pictures)
    }


def concept_of(concept: Concept, backbone: HasCard, method: str | None = None) -> dict[str, bytes]:
    """Return the files of one concept; ``method`` is the concept's own if not given."""
    name = method or concept.metadata.get("method", "")
    return formats.encode_concept(concept, method=name, **made_on(backbone))


MAX_SOURCE = 2**25
"""Bytes of a given picture that a run folder keeps a copy of."""


def source_files(files: Sequence[Path]) -> dict[str, bytes]:
    """Return copies of the pictures that a run was given: what it drew can be drawn again."""
    kept = {}
    for number, file in enumerate(files):
        if file.stat().st_size <= MAX_SOURCE:
            kept[f"sources/{number:04d}{file.suffix.lower()}"] = file.read_bytes()
    return kept


def _dial(request: Mapping[str, Any]) -> str | None:
    """Return how far was asked for, in one word."""
    config = request.get("config") or {}
    if config.get("reach") is not None:
        return f"{config['reach']:g}x"
    return None if config.get("novelty") is None else f"{config['novelty']:g}"


def sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    *,
    title: str,
    captions: Sequence[str] = (),
    note: str = "",
    columns: int = 8,
) -> bytes:
    """Return a contact sheet as PNG."""
    found = plots.contact_sheet(
        rows, title=title, captions=captions, note=note, max_columns=columns
    )
    return plots.png_of(found)
