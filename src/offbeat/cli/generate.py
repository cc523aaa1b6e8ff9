"""``offbeat generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offbeat.cli import options as shared
from offbeat.cli.output import at_work, show_result


@shared.placing
def generate(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="E.g. `a red castle on a blue background`.")
    ],
    concept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONCEPT[:STRENGTH]",
            help="What a run learned, as for `offbeat render`, e.g. `runs/handbag-0:0.7`; PROMPT "
            "then holds `{concept}`, and `{concept2}`, ... for further ones. Repeatable.",
        ),
    ] = None,
    negative_prompt: shared.NegativePrompt = "",
    image: shared.ImagePrompt = None,
    image_weight: shared.ImageWeight = None,
    init_image: shared.InitImage = None,
    strength: shared.Strength = None,
    mask: shared.Mask = None,
    num_images: shared.NumImages = 8,
    steps: shared.Steps = None,
    guidance: shared.Guidance = None,
    prior_steps: Annotated[
        int | None,
        typer.Option(min=2, help="Denoising steps of the prior; only with a prior."),
    ] = None,
    prior_guidance: Annotated[
        float | None,
        typer.Option(min=1, help="Guidance scale of the prior; 1 is off; only with a prior."),
    ] = None,
    seed: shared.Seed = 0,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="A checkpoint: name (`offbeat list backbones`), folder or hub id; by default the "
            "one that the concept was learned on, or pocket."
        ),
    ] = None,
    place: shared.Place = shared.anywhere,
    out: Annotated[Path | None, shared.run_folder("generate")] = None,
) -> None:
    """Draw PROMPT as it is: the ordinary, to compare with.

    **Example**

    `offbeat generate "a red castle on a blue background" -n 16`

    `offbeat generate "a red castle" --backbone pocket-sd --negative-prompt "a tree"`

    `offbeat generate "a red castle" --init-image castle.png --strength 0.6`

    `offbeat generate "a {concept} on a table" --concept runs/handbag-0:0.7`
    """
    with at_work(out, Path("runs") / "generate", place, num_images=num_images) as common:
        import offbeat

        run = offbeat.generate(
            prompt,
            concept=concept or (),
            negative_prompt=negative_prompt,
            image=image,
            image_weight=image_weight,
            init_image=init_image,
            strength=strength,
            mask=mask,
            num_images=num_images,
            num_inference_steps=steps,
            guidance_scale=guidance,
            prior_num_inference_steps=prior_steps,
            prior_guidance_scale=prior_guidance,
            seed=seed,
            backbone=backbone,
            **common,
        )
    show_result(run.summary, common["out"] / "contact.png")
