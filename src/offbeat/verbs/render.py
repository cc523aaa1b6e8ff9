"""Draw what runs learned, in any prompt; several concepts may stand in one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from offbeat.checkpoints.placement import Where
from offbeat.core.drawing import draw, prior_settings
from offbeat.errors import ConfigError, PromptError, StoreError
from offbeat.files.learned import Learned
from offbeat.files.png import to_pil
from offbeat.protocols import TextBackbone
from offbeat.runs.images import png_files, sheet
from offbeat.runs.result import Run, Source, concept_files, costed
from offbeat.types import Concept, Observe, ignore
from offbeat.verbs.controls import Controls
from offbeat.verbs.pictures import PictureLike
from offbeat.verbs.session import (
    Session,
    check_numbers,
    checked_text,
    note_syntax,
    prompt_strengths,
)


@costed
def render(
    source: Source | Sequence[Source],
    *,
    prompt: str | None = None,
    negative_prompt: str = "",
    image: PictureLike | None = None,
    image_weight: float | None = None,
    init_image: PictureLike | None = None,
    strength: float | None = None,
    mask: PictureLike | None = None,
    num_images: int = 8,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    backbone: str | Path | TextBackbone | None = None,
    device: Where = "auto",
    out: str | Path | None = None,
    observe: Observe = ignore,
) -> Run:
    """Draw what a run learned, in its own prompt or another.

    Args:
        source: A run, its folder, ``FOLDER:INDEX`` for one concept of several, a
            ``concept.safetensors``, a picture that keeps its concept inside, or a token of another
            tool. Several may stand in one prompt. ``SOURCE:0.7`` is one of another strength: 1 is
            what was learned, 0 its subject, below 0 its contrary.
        prompt: With ``{concept}``, e.g. ``an oil painting of a {concept}``, and ``{concept2}``,
            ``{concept3}``, ... for further sources; ``{concept:0.7}`` has a strength, too. None is
            the concept's own.
        negative_prompt: As in ``generate``, and so the next five.
        image: A picture as prompt.
        image_weight: Its weight.
        init_image: A picture to begin from.
        strength: How far it is drawn anew.
        mask: Where.
        num_images: Pictures to draw.
        num_inference_steps: Denoising steps; None is the checkpoint's own, as with the next one.
        guidance_scale: 1 is off.
        seed: Same seed, same pictures; a run's own seed gives its own noise.
        backbone: None is the checkpoint that the run used.
        device: Where to run, or a ``Placement``: see ``load_backbone``.
        out: Run folder to write; None keeps all in memory.
        observe: Told how far the drawing is.

    Raises:
        FingerprintError: If the checkpoint is not the one that it was learned on.
        PromptError: If the prompt lacks ``{concept}``, or a further source's place.
        StoreError: If there is no such run or concept.
    """
    sources = [source] if isinstance(source, str | Path | Run) else source
    if not isinstance(sources, Sequence) or not sources:
        raise StoreError(f"source: expected a run or its folder, got {source!r}")
    if prompt is not None:
        checked_text("prompt", prompt)
    check_numbers(num_images=num_images, seed=seed)
    controls = Controls(
        negative_prompt=negative_prompt,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        image=image,
        image_weight=image_weight,
        init_image=init_image,
        strength=strength,
        mask=mask,
    )
    session = Session(backbone, device, out=out, observe=observe)
    learned = session.load_learned(sources)
    model = session.backbone
    if prompt is not None:
        prompt, learned = prompt_strengths(prompt, learned, model)
    first, steering = learned[0], controls.steering(model, learned=True)
    concept = joined([part.concept for part in learned], prompt)
    # too long a prompt fails before a folder is made
    model.encode_text([concept.prompt(), negative_prompt], tokens=concept.token_embeds)
    settings = steering.drawing(model)
    request: dict[str, Any] = {
        "subject": concept.subject,
        "verb": "render",
        "prompt": prompt or first.concept.template,
        "num_images": num_images,
        "seed": seed,
        "learned": dict(first.origin),
        "prior": dict(prior_settings(concept)),
        **steering.request,
    }
    if len(learned) > 1:
        request["beside"] = [dict(part.origin) for part in learned[1:]]
    session.open(request)
    template = None if prompt is None else concept.template
    settings |= {"template": template, "observe": observe}
    note_syntax(session, request["prompt"], negative_prompt)
    images = draw(model, concept, seed=seed, num=num_images, **settings)
    pictures = to_pil(images)
    title = _title(request["prompt"], learned)
    return session.write(
        [concept],
        pictures,
        {
            **png_files(
                "images", pictures, session.request, concept, model, drawing=steering.recipe
            ),
            **concept_files([concept], model),
        },
        views={
            "contact.png": lambda: sheet([(title, pictures)], title=concept.subject),
            **steering.copies(),
        },
    )


def joined(concepts: Sequence[Concept], prompt: str | None) -> Concept:
    """Return one concept that draws all of them in one prompt, each with words of its own.

    Raises:
        PromptError: If the prompt lacks a place, or has one too many.
        ConfigError: If two of them need LoRA factors, or one is no token.
    """
    first = concepts[0]
    places = ["{concept}", *(f"{{concept{n}}}" for n in range(2, len(concepts) + 1))]
    template = first.template if prompt is None else prompt
    if prompt is None and len(concepts) > 1:
        raise PromptError(f"prompt: several concepts need one that holds {', '.join(places)}")
    for place in places:
        if place not in template:
            raise PromptError(f"prompt: expected {place} somewhere in {template!r}")
    for extra in re.findall(r"\{concept\d+\}", template):
        if extra not in places:
            raise PromptError(f"prompt: {extra} in {template!r} stands for no source")
    if len(concepts) == 1:
        return replace(first, template=template)
    if any(concept.image_embeds is not None for concept in concepts):
        raise ConfigError("source: an embedding (--space direct) cannot stand beside another")
    if sum(bool(concept.lora) for concept in concepts) > 1:
        raise ConfigError("source: at most one concept of a prompt may bring LoRA factors")
    tokens, lora = dict(first.token_embeds), dict(first.lora)
    for number, (place, concept) in enumerate(zip(places[1:], concepts[1:], strict=True), start=2):
        word = concept.word
        for name, vectors in concept.token_embeds.items():
            renamed = f"<{name.strip('<>')}-{number}>"
            word, tokens[renamed] = word.replace(name, renamed), vectors
        template = template.replace(place, word)
        lora |= concept.lora
    return replace(
        first,
        template=template,
        subject=" and ".join(concept.subject for concept in concepts),
        token_embeds=tokens,
        lora=lora,
    )


def _title(prompt: str, learned: Sequence[Learned]) -> str:
    for number, part in enumerate(learned, start=1):
        place = "{concept}" if number == 1 else f"{{concept{number}}}"
        prompt = prompt.replace(place, f"[{part.concept.subject}]")
    return prompt
