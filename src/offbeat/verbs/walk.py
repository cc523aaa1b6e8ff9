"""Walk from one learned concept to another: points between them, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.checkpoints.placement import Where
from offbeat.core.checks import check_whole
from offbeat.errors import ConfigError
from offbeat.files.png import to_pil
from offbeat.protocols import TextBackbone
from offbeat.runs.folder import REQUEST
from offbeat.runs.images import png_files, sheet
from offbeat.runs.result import Run, Source, concept_files, costed
from offbeat.types import PLACEHOLDER, Concept, Observe, ignore
from offbeat.verbs.session import Session, check_numbers, check_template, in_prompt


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
    """Draw ``num`` concepts on the straight line between two learned ones, the ends included.

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
        ConfigError: If a number is out of its range, or a source is more than one token.
        FingerprintError: If a source was learned on another checkpoint.
        PromptError: If the prompt lacks ``{concept}``.
        StoreError: If there is no such run or concept.
    """
    check_whole("num", num, 2)
    check_numbers(num_images=num_images, seed=seed)
    check_template(prompt)
    session = Session(backbone, device, out=out, observe=observe)
    ends = session.load_learned([first, second])
    model = session.backbone
    shares = [index / (num - 1) for index in range(num)]
    concepts = [
        in_prompt(between(ends[0].concept, ends[1].concept, share), prompt) for share in shares
    ]
    with torch.no_grad():  # too long a prompt fails before a folder is made
        model.encode_text([concepts[0].prompt()], tokens=concepts[0].token_embeds)
    names = [end.concept.subject for end in ends]
    numbers = [end.origin.get("concept") for end in ends]
    shown = [
        name if number is None else f"{name}:{number}"
        for name, number in zip(names, numbers, strict=True)
    ]
    session.open(
        {
            "verb": "walk",
            "subject": " to ".join(names),
            "learned": dict(ends[0].origin),
            "beside": [dict(ends[1].origin)],
            "num": num,
            "num_images": num_images,
            "prompt": prompt,
            "seed": seed,
            "method": "walk",
        }
    )
    return _written(
        session,
        concepts,
        [{"share": share} for share in shares],
        title=f"From {shown[0]} to {shown[1]}",
        in_words=f"{num} concepts on the straight line from {shown[0]} to {shown[1]}.",
        captions=[f"{share:.2f}" for share in shares],
    )


@costed
def blend(
    sources: Sequence[tuple[Source, float]],
    *,
    num_images: int = 8,
    prompt: str | None = None,
    seed: int = 0,
    backbone: str | Path | TextBackbone | None = None,
    device: Where = "auto",
    out: str | Path | None = None,
    observe: Observe = ignore,
) -> Run:
    """Draw the weighted mean of learned tokens: what ``fuse`` makes of concepts.

    Args:
        sources: As of ``walk``, each with its share; shares sum to 1.
        num_images: Pictures.
        prompt: See ``walk``, and so are all that follow.
        seed: See ``walk``.
        backbone: See ``walk``.
        device: See ``walk``.
        out: See ``walk``.
        observe: See ``walk``.
    """
    check_numbers(num_images=num_images, seed=seed)
    check_template(prompt)
    session = Session(backbone, device, out=out, observe=observe)
    ends = session.load_learned([source for source, _ in sources])
    concept, total = ends[0].concept, sources[0][1]
    for end, (_, share) in zip(ends[1:], sources[1:], strict=True):
        total += share
        concept = between(concept, end.concept, share / total)
    session.open(
        {
            "verb": "fuse",
            "layout": "blend",
            "subject": " + ".join(end.concept.subject for end in ends),
            "learned": dict(ends[0].origin),
            "beside": [dict(end.origin) for end in ends[1:]],
            "shares": [share for _, share in sources],
            "num_images": num_images,
            "prompt": prompt,
            "seed": seed,
            "method": "blend",
        }
    )
    told = f"The weighted mean of {len(ends)} learned tokens."
    facts = [{"shares": [share for _, share in sources]}]
    title = session.request["subject"]
    return _written(session, [in_prompt(concept, prompt)], facts, title=title, in_words=told)


def names_concept(source: object) -> bool:
    """Return whether a text names a run, one concept of a run, or a concept's file."""
    folder, _, index = str(source).rpartition(":")
    path = Path(folder if folder and index.isdigit() else str(source))
    return (path / REQUEST).is_file() or (path.suffix == ".safetensors" and path.is_file())


def _written(
    session: Session,
    concepts: Sequence[Concept],
    rows: Sequence[dict[str, Any]],
    *,
    title: str,
    in_words: str,
    captions: Sequence[str] = (),
) -> Run:
    """Draw concepts and write them; a sheet has a column for each, or one row of a single one."""
    num_images, model = session.request["num_images"], session.backbone
    pictures = to_pil(torch.cat([session.draw(concept) for concept in concepts]))
    files = concept_files(concepts, model)
    for index, concept in enumerate(concepts):
        start = index * num_images
        part = pictures[start : start + num_images]
        files |= png_files("images", part, session.request, concept, model, start=start)
    lines = [("", pictures[row::num_images]) for row in range(num_images)]
    lines = lines if len(concepts) > 1 else [("", pictures)]
    return session.write(
        concepts,
        pictures,
        files,
        summary={
            "subject": session.request["subject"],
            "prompt": concepts[0].template,
            "seed": session.request["seed"],
            "concepts": list(rows),
            "warnings": [],
            "in_words": in_words,
        },
        views={"contact.png": lambda: sheet(lines, title=title, captions=captions)},
        title=title,
    )


def between(first: Concept, second: Concept, share: float) -> Concept:
    """Return the concept at ``share``, 0 to 1, of the straight line between two learned ones.

    LoRA factors are joined: what they add is the mean of what both add, weighted by the share.

    Raises:
        ConfigError: If a concept is more than one token, or their lengths differ.
    """
    rows = []
    for end in (first, second):
        if len(end.token_embeds) != 1 or end.image_embeds is not None:
            raise ConfigError(
                f"{end.subject}: expected a concept that is one learned token, with or without "
                "LoRA factors, got an embedding, several tokens or none; no line leads between "
                "those"
            )
        rows.append(next(iter(end.token_embeds.values())))
    if rows[0].shape != rows[1].shape:
        got = " and ".join(str(list(row.shape)) for row in rows)
        raise ConfigError(f"tokens: expected two of one length, got {got}")
    sampling = {name: text for name, text in first.metadata.items() if name.startswith("prior_")}
    return Concept(
        template=first.template,
        subject=first.subject if share < 0.5 else second.subject,
        token_embeds={PLACEHOLDER: torch.lerp(rows[0], rows[1], share)},
        lora=_joined(first.lora, second.lora, share),
        metadata={"method": "walk", "share": f"{share:.4f}", **sampling},
    )


def _joined(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Return factors whose product is ``(1 - share) B A`` of the first plus ``share B A``.

    The rank is the sum of both ranks; a layer that only one of them changes keeps its rank.
    """
    joined: dict[str, list[Tensor]] = {}
    for factors, weight in ((first, 1 - share), (second, share)):
        if not weight:
            continue
        for name, factor in factors.items():
            scaled = factor * weight if ".lora_B." in name else factor
            joined.setdefault(name, []).append(scaled)
    return {
        name: torch.cat(parts, 1 if ".lora_B." in name else 0) for name, parts in joined.items()
    }
