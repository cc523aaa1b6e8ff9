"""Walk from one learned concept to another: points between their tokens, drawn."""

from __future__ import annotations

from pathlib import Path

import torch

from offbeat.checkpoints.placement import Where
from offbeat.core.checks import check_whole
from offbeat.errors import ConfigError
from offbeat.files.png import to_pil
from offbeat.protocols import TextBackbone
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
    pictures = to_pil(torch.cat([session.draw(concept) for concept in concepts]))
    files = concept_files(concepts, model)
    for index, concept in enumerate(concepts):
        start = index * num_images
        part = pictures[start : start + num_images]
        files |= png_files("images", part, session.request, concept, model, start=start)
    title = f"From {names[0]} to {names[1]}"
    return session.write(
        concepts,
        pictures,
        files,
        summary={
            "subject": session.request["subject"],
            "prompt": concepts[0].template,
            "seed": seed,
            "concepts": [{"share": share} for share in shares],
            "warnings": [],
            "in_words": f"{num} concepts on the straight line between two learned tokens.",
        },
        views={
            "contact.png": lambda: sheet(
                [("", pictures[row::num_images]) for row in range(num_images)],
                title=title,
                captions=[f"{share:.2f}" for share in shares],
            )
        },
        title=title,
    )


def between(first: Concept, second: Concept, share: float) -> Concept:
    """Return the concept at ``share``, 0 to 1, of the straight line between two tokens.

    Raises:
        ConfigError: If a concept is more than one token, or their lengths differ.
    """
    rows = []
    for end in (first, second):
        if len(end.token_embeds) != 1 or end.lora or end.image_embeds is not None:
            raise ConfigError(
                f"{end.subject}: expected a concept that is one learned token, got one with LoRA "
                "factors, an embedding, several tokens or none; no line leads between those"
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
        metadata={"method": "walk", "share": f"{share:.4f}", **sampling},
    )
