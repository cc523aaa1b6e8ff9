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
    negative_prompt: Annotated[str, typer.Option(help="What to steer away from.")] = "",
    num_images: shared.NumImages = 8,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Denoising steps."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(min=1, help="Guidance scale; 1 is off."),
    ] = None,
    prior_steps: Annotated[
        int | None,
        typer.Option(min=2, help="Denoising steps of the prior; only with a prior."),
    ] = None,
    prior_guidance: Annotated[
        float | None,
        typer.Option(min=1, help="Guidance scale of the prior; 1 is off; only with a prior."),
    ] = None,
    seed: shared.Seed = 0,
    backbone: shared.Checkpoint = "pocket",
    place: shared.Place = shared.anywhere,
    out: Annotated[Path | None, shared.run_folder("generate")] = None,
) -> None:
    """Draw PROMPT as it is: the ordinary, to compare with.

    **Example**

    `offbeat generate "a red castle on a blue background" -n 16`

    `offbeat generate "a red castle" --backbone pocket-sd --negative-prompt "a tree"`
    """
    with at_work(out, Path("runs") / "generate", place, num_images=num_images) as common:
        import offbeat

        run = offbeat.generate(
            prompt,
            negative_prompt=negative_prompt,
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
