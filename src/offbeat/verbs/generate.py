"""Plain generation: a prompt drawn as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from offbeat.checkpoints.placement import Where
from offbeat.core.checks import check_range, check_whole
from offbeat.core.drawing import draw
from offbeat.errors import ConfigError
from offbeat.files.png import to_pil
from offbeat.protocols import PriorBackbone, TextBackbone
from offbeat.runs.images import png_files, sheet
from offbeat.runs.result import Run, Source, concept_files, costed
from offbeat.types import Concept, Observe, ignore
from offbeat.verbs.controls import Controls
from offbeat.verbs.pictures import PictureLike
from offbeat.verbs.render import joined
from offbeat.verbs.session import (
    Session,
    check_numbers,
    checked_text,
    note_syntax,
    prompt_strengths,
)


@costed
def generate(
    prompt: str,
    *,
    concept: Source | Sequence[Source] = (),
    negative_prompt: str = "",
    image: PictureLike | None = None,
    image_weight: float | None = None,
    init_image: PictureLike | None = None,
    strength: float | None = None,
    mask: PictureLike | None = None,
    num_images: int = 8,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    prior_num_inference_steps: int | None = None,
    prior_guidance_scale: float | None = None,
    seed: int = 0,
    backbone: str | Path | TextBackbone | None = None,
    device: Where = "auto",
    out: str | Path | None = None,
    observe: Observe = ignore,
) -> Run:
    """Draw a prompt as it is: the ordinary, to compare with.

    Args:
        prompt: Any text that fits the checkpoint.
        concept: What runs learned, as for ``render``; then the prompt holds ``{concept}``, and
            ``{concept2}``, ... for further ones. ``FILE:0.7`` is one of another strength.
        negative_prompt: What guidance steers from, in the prior too where there is one.
        image: A picture as prompt beside the text: by the checkpoint's IP-Adapter, or by the
            image embedding of an unCLIP checkpoint. File, or ``[3, H, W]``, 0 to 1.
        image_weight: Its weight: an IP-Adapter's, 0 to 10, by default the checkpoint's own; of an
            unCLIP checkpoint its share, 0 to 1, by default a half.
        init_image: A picture to begin from in the place of noise. Its shape is kept, and about the
            checkpoint's number of pixels.
        strength: How far it is drawn anew, above 0 to 1; None is 0.8, or 1 with a mask.
        mask: A picture of its shape, white where it is drawn anew. Latents are blended after each
            step, so no network for inpainting is needed, and edges may show.
        num_images: Pictures, 1 or more.
        num_inference_steps: Denoising steps; None is the checkpoint's own, as with the next three.
        guidance_scale: 1 is off.
        prior_num_inference_steps: 2 or more; only where there is a prior, as the next one.
        prior_guidance_scale: 1 is off.
        seed: Same seed, same pictures.
        backbone: Name, folder, hub id, or a loaded one; None is what the first concept was learned
            on, or pocket.
        device: Where to run, or a ``Placement``: see ``load_backbone``.
        out: Run folder to write; None keeps all in memory.
        observe: Told how far the drawing is.

    Raises:
        CapabilityError: If the checkpoint cannot read or begin from a picture.
        CheckpointError: If there is no such checkpoint.
        ConfigError: If a setting is out of its range, or of a prior that the checkpoint lacks.
        ImageError: If a file is no picture.
        PromptError: If the prompt is empty or too long, or lacks a concept's place.
    """
    checked_text("prompt", prompt)
    check_numbers(num_images=num_images, seed=seed)
    if prior_num_inference_steps is not None:
        check_whole("prior_num_inference_steps", prior_num_inference_steps, 2, 1000)
    if prior_guidance_scale is not None:
        check_range("prior_guidance_scale", prior_guidance_scale, 0, 1000)
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
    sources = [concept] if isinstance(concept, str | Path | Run) else list(concept)
    learned = session.load_learned(sources) if sources else []
    model = session.backbone if sources else session.load()
    steering = controls.steering(model, learned=bool(sources))
    prior = _prior_settings(model, prior_num_inference_steps, prior_guidance_scale)
    metadata = {"method": "generate", **{name: str(value) for name, value in prior.items()}}
    if learned:
        template, learned = prompt_strengths(prompt, learned, model)
        what = joined([part.concept for part in learned], template)
        what = replace(what, metadata={**what.metadata, **metadata})
    else:  # the prompt is the word, not the template: it may hold {concept} itself
        what = Concept(template="{concept}", subject=prompt, word=prompt, metadata=metadata)
    # too long a text fails before a folder is made
    model.encode_text([what.prompt(), negative_prompt], tokens=what.token_embeds)
    told = steering.drawing(model)
    session.open(
        {
            "verb": "generate",
            "prompt": prompt,
            "num_images": num_images,
            "seed": seed,
            **({"concepts": [dict(part.origin) for part in learned]} if learned else {}),
            **prior,
            **steering.request,
        }
    )
    note_syntax(session, prompt, negative_prompt)
    images = draw(model, what, seed=seed, num=num_images, **told, observe=observe)
    pictures = to_pil(images)
    drawing = steering.recipe
    return session.write(
        [what],
        pictures,
        {
            **png_files("images", pictures, session.request, what, model, drawing=drawing),
            **concept_files([what], model),
        },
        views={
            "contact.png": lambda: sheet([("", pictures)], title=prompt),
            **steering.copies(),
        },
    )


def _prior_settings(
    model: TextBackbone, num_inference_steps: int | None, guidance_scale: float | None
) -> dict[str, float]:
    """Return how the prior is sampled; nothing where there is none.

    Raises:
        ConfigError: If something is asked of a prior that is not there.
    """
    card = model.card
    if isinstance(model, PriorBackbone):
        return {
            "prior_num_inference_steps": num_inference_steps or card["prior_num_inference_steps"],
            "prior_guidance_scale": float(
                card["prior_guidance_scale"] if guidance_scale is None else guidance_scale
            ),
        }
    settings = {
        "prior_num_inference_steps": num_inference_steps,
        "prior_guidance_scale": guidance_scale,
    }
    for name, value in settings.items():
        if value is not None:
            raise ConfigError(
                f"{name}: {model.name} draws from text itself and has no prior, got {value}; leave "
                "it out, or choose a backbone with a prior, such as pocket"
            )
    return {}
