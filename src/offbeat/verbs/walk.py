"""Walk from one learned concept to another: points between their tokens, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from offbeat.checkpoints.open import loaded, loaded_recorded
from offbeat.checkpoints.placement import Where
from offbeat.core.drawing import draw
from offbeat.core.templates import fill
from offbeat.errors import ConfigError
from offbeat.files.labels import versions
from offbeat.files.learned import check_fingerprint
from offbeat.files.png import to_pil
from offbeat.protocols import TextBackbone
from offbeat.runs.folder import RunFolder
from offbeat.runs.images import png_files, sheet
from offbeat.runs.result import (
    Run,
    Source,
    concept_files,
    costed,
    learned_of,
    numerics_of,
    reported,
)
from offbeat.types import PLACEHOLDER, Concept, Observe, ignore


@costed
def walk(
    first: Source,
    second: Source,
    *,
    num: int = 9,
    num_images: int = 1,
    prompt: str | None = None,
    seed: int = 0,
    backbone: str | Path | TextBackbone | None = None,
    device: Where = "auto",
    out: str | Path | None = None,
    observe: Observe = ignore,
) -> Run:
    """Draw the way from one find to another: ``num`` concepts, the ends among them.

    Args:
        first: A run with one concept, its folder, ``FOLDER:INDEX``, or a ``concept.safetensors``.
        second: The same; learned on the same checkpoint.
        num: Concepts, 2 or more.
        num_images: Pictures of each; those of one row share their noise.
        prompt: With ``{concept}``; None is that of the first.
        seed: Same seed, same pictures.
        backbone: None is the checkpoint that the first was learned on.
        device: Where to run, or a ``Placement``: see ``load_backbone``.
        out: Run folder; None keeps all in memory.
        observe: Told how far it is.

    Raises:
        ConfigError: If a number is out of its range, or one of them is more than a token.
        FingerprintError: If one was learned on another checkpoint.
        PromptError: If the prompt lacks ``{concept}``.
        StoreError: If there is no such run or concept.
    """
    if num < 2 or num_images < 1:
        raise ConfigError(f"num, num_images: expected at least 2 and 1, got {num} and {num_images}")
    if prompt is not None:
        fill(prompt, concept="")  # a prompt without its place fails first
    given = None if backbone is None else loaded(backbone, device)
    ends = [learned_of(one, given) for one in (first, second)]
    model = loaded_recorded(ends[0].checkpoint, device) if given is None else given
    for one in ends:
        check_fingerprint(one, model)
    shares = [index / (num - 1) for index in range(num)]
    concepts = [between(ends[0].concept, ends[1].concept, share) for share in shares]
    if prompt is not None:
        concepts = [replace(concept, template=prompt) for concept in concepts]
    with torch.no_grad():  # too long a prompt fails before a folder is made
        model.encode_text([concepts[0].prompt()], tokens=concepts[0].token_embeds)
    names = [one.concept.subject for one in ends]
    request = {
        "verb": "walk",
        "subject": " to ".join(names),
        "learned": dict(ends[0].origin),
        "beside": [dict(ends[1].origin)],
        "num": num,
        "num_images": num_images,
        "prompt": prompt,
        "seed": seed,
        "method": "walk",
        "checkpoint": model.name,
        "fingerprint": model.fingerprint,
        "versions": versions(),
        **numerics_of(model),
    }
    folder = RunFolder.create(Path(out), request) if out is not None else None
    images = []
    for index, concept in enumerate(concepts):
        images.append(draw(model, concept, seed=seed, num=num_images))
        observe("walking", index + 1, num, {})
    return _written(request, concepts, names, shares, images, model, folder)


def between(first: Concept, second: Concept, share: float) -> Concept:
    """Return the concept at ``share``, 0 to 1, of the way: its token lies on the straight line.

    Raises:
        ConfigError: If one of them is more than one token, or tokens of different length.
    """
    rows = []
    for one in (first, second):
        if len(one.token_embeds) != 1 or one.lora or one.image_embeds is not None:
            raise ConfigError(
                f"{one.subject}: a way leads between learned tokens, and this is "
                "no single one (LoRA factors, an embedding, or a plain word have no place on it)"
            )
        rows.append(next(iter(one.token_embeds.values())))
    if rows[0].shape != rows[1].shape:
        got = " and ".join(str(list(one.shape)) for one in rows)
        raise ConfigError(f"tokens: expected two of one length, got {got}")
    return Concept(
        template=first.prompt().replace(first.word, "{concept}"),
        subject=first.subject if share < 0.5 else second.subject,
        token_embeds={PLACEHOLDER: torch.lerp(rows[0], rows[1], share)},
        metadata={"method": "walk", "share": f"{share:.4f}", **_prior(first)},
    )


def _prior(concept: Concept) -> dict[str, str]:
    """Return how the prior is sampled for what a search found."""
    return {name: text for name, text in concept.metadata.items() if name.startswith("prior_")}


def _written(
    request: dict[str, Any],
    concepts: Sequence[Concept],
    names: Sequence[str],
    shares: Sequence[float],
    images: Sequence[torch.Tensor],
    model: TextBackbone,
    folder: RunFolder | None,
) -> Run:
    """Write what was drawn on the way."""
    each = request["num_images"]
    pictures = to_pil(torch.cat(list(images)))
    files = concept_files(concepts, model)
    for index, concept in enumerate(concepts):
        part = pictures[index * each : (index + 1) * each]
        files |= png_files("images", part, request, concept, model, start=index * each)
    title = f"From {names[0]} to {names[1]}"
    rows = [("", pictures[at::each]) for at in range(each)]
    summary = {
        "subject": request["subject"],
        "prompt": concepts[0].template,
        "seed": request["seed"],
        "concepts": [{"share": share} for share in shares],
        "warnings": [],
        "in_words": f"{len(concepts)} concepts on the straight line between two learned tokens.",
    }
    contact = sheet(rows, title=title, captions=[f"{share:.2f}" for share in shares])
    return reported(
        request,
        concepts,
        pictures,
        files,
        folder,
        title=title,
        contact=contact,
        summary=summary,
    )
