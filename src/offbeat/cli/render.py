"""``offbeat render``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offbeat.cli import options as shared
from offbeat.cli.output import at_work, show_result


@shared.placing
def render(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="CONCEPT[:STRENGTH]...",
            help="A finished run folder, `FOLDER:NUMBER` for one concept of several, or a "
            "`concept.safetensors`, a picture, or a token of another tool. Several share a prompt. "
            "A strength has a point or a sign: `:0.7`, `:-1.0`; 0.0 is the subject itself.",
        ),
    ],
    prompt: Annotated[
        str | None,
        typer.Option(
            help="With `{concept}` where it stands, e.g. `an oil painting of a {concept}`, and "
            "`{concept2}`, `{concept3}`, ... for further ones, and `{concept:0.7}` for one of "
            "another strength; by default the prompt that it was learned in."
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
    seed: shared.Seed = 0,
    backbone: Annotated[
        str | None,
        typer.Option(help="The checkpoint that it was learned on, if it is not on this machine."),
    ] = None,
    place: shared.Place = shared.anywhere,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder; by default `RUN-render` and a number."),
    ] = None,
) -> None:
    """Draw what a run learned, in other prompts.

    **Example**

    `offbeat render runs/handbag-0 --prompt "an outline drawing of a {concept}" -n 4`

    `offbeat render runs/dream-0:3 runs/castle-0 --prompt "a {concept} and a {concept2}"`
    """
    source = Path(sources[0])
    named = source if source.name not in ("", "..") else source.resolve()  # "." has no name
    first = named.parent / f"{named.name.replace(':', '-')}-render"
    with at_work(out, first, place, num_images=num_images) as common:
        import offbeat

        run = offbeat.render(
            sources,
            prompt=prompt,
            negative_prompt=negative_prompt,
            image=image,
            image_weight=image_weight,
            init_image=init_image,
            strength=strength,
            mask=mask,
            num_inference_steps=steps,
            guidance_scale=guidance,
            num_images=num_images,
            seed=seed,
            backbone=backbone,
            **common,
        )
    show_result(run.summary, common["out"] / "contact.png")
