"""Plain generation: a prompt drawn as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offbeat.checkpoints.placement import Where
from offbeat.core.checks import check_range, check_whole
from offbeat.core.drawing import draw
from offbeat.core.templates import check_text
from offbeat.errors import ConfigError
from offbeat.files.png import to_pil
from offbeat.protocols import PriorBackbone, TextBackbone
from offbeat.runs.images import png_files, sheet
from offbeat.runs.result import Run, concept_files, costed
from offbeat.types import Concept, Observe, ignore
from offbeat.verbs.session import Session, check_numbers, checked_text


@costed
def generate(
    prompt: str,
    *,
    negative_prompt: str = "",
    num_images: int = 8,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    prior_num_inference_steps: int | None = None,
    prior_guidance_scale: float | None = None,
    seed: int = 0,
    backbone: str | Path | TextBackbone = "pocket",
    device: Where = "auto",
    out: str | Path | None = None,
    observe: Observe = ignore,
) -> Run:
    """Draw a prompt as it is: the ordinary, to compare with.

    Args:
        prompt: Any text that fits the checkpoint.
        negative_prompt: What guidance steers from, in the prior too where there is one.
        num_images: Pictures, 1 or more.
        num_inference_steps: Denoising steps; None is the checkpoint's own, as with the next three.
        guidance_scale: 1 is off.
        prior_num_inference_steps: 2 or more; only where there is a prior, as the next one.
        prior_guidance_scale: 1 is off.
        seed: Same seed, same pictures.
        backbone: Name, folder, hub id, or a loaded one.
        device: Where to run, or a ``Placement``: see ``load_backbone``.
        out: Run folder to write; None keeps all in memory.
        observe: Told how far the drawing is.

    Raises:
        CheckpointError: If there is no such checkpoint.
        ConfigError: If a setting is out of its range, or of a prior that the checkpoint lacks.
        PromptError: If the prompt is empty or too long.
    """
    checked_text("prompt", prompt)
    check_text("negative_prompt", negative_prompt)
    check_numbers(num_images=num_images, seed=seed)
    for name, steps, low in (
        ("num_inference_steps", num_inference_steps, 1),
        ("prior_num_inference_steps", prior_num_inference_steps, 2),
    ):
        if steps is not None:
            check_whole(name, steps, low, 1000)
    for name, scale in (
        ("guidance_scale", guidance_scale),
        ("prior_guidance_scale", prior_guidance_scale),
    ):
        if scale is not None:
            check_range(name, scale, 0, 1000)
    session = Session(backbone, device, out=out, observe=observe)
    model = session.load()
    card = model.card
    prior = _prior_settings(model, prior_num_inference_steps, prior_guidance_scale)
    decoding: dict[str, Any] = {
        "num_inference_steps": num_inference_steps or card["num_inference_steps"],
        "guidance_scale": _or(guidance_scale, card["guidance_scale"]),
    }
    metadata = {"method": "generate", **{name: str(value) for name, value in prior.items()}}
    # the prompt is the word, not the template: it may hold {concept} itself
    concept = Concept(template="{concept}", subject=prompt, word=prompt, metadata=metadata)
    model.encode_text([prompt, negative_prompt])  # too long a text fails before a folder is made
    session.open(
        {
            "verb": "generate",
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "num_images": num_images,
            "seed": seed,
            **prior,
            **decoding,
        }
    )
    drawing: dict[str, Any] = {"negative_prompt": negative_prompt, "decoding": decoding}
    images = draw(model, concept, seed=seed, num=num_images, **drawing, observe=observe)
    pictures = to_pil(images)
    return session.write(
        [concept],
        pictures,
        {
            **png_files("images", pictures, session.request, concept, model, drawing=drawing),
            **concept_files([concept], model),
        },
        views={"contact.png": lambda: sheet([("", pictures)], title=prompt)},
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
            "prior_guidance_scale": _or(guidance_scale, card["prior_guidance_scale"]),
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


def _or(value: float | None, default: Any) -> float:
    return float(default if value is None else value)
