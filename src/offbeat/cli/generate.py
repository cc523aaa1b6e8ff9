"""``offbeat generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from offbeat.cli.options import Checkpoint, Place, anywhere, placing
from offbeat.cli.output import (
    ProgressLine,
    check_num_images,
    errors_shown,
    free_folder,
    stopped_shown,
)


@placing
def generate(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="E.g. `a red castle on a blue background`.")
    ],
    negative_prompt: Annotated[str, typer.Option(help="What to steer away from.")] = "",
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=1, help="Pictures.")] = 8,
    steps: Annotated[
        Optional[int],  # noqa: UP045 - typer reads it at run time on Python 3.10
        typer.Option(min=1, help="Denoising steps."),
    ] = None,
    guidance: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=1, help="Guidance scale; 1 is off."),
    ] = None,
    prior_steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=2, help="Denoising steps of the prior; not for `pocket-sd` and its kin."),
    ] = None,
    prior_guidance: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=1, help="Guidance scale of the prior; 1 is off; as above."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")] = 0,
    backbone: Checkpoint = "pocket",
    place: Place = anywhere,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Run folder; `runs/generate` and a number if not given."),
    ] = None,
) -> None:
    """Draw PROMPT as it is: the ordinary, to compare with.

    **Example**

    `offbeat generate "a red castle on a blue background" -n 16`

    `offbeat generate "a red castle" --backbone pocket-sd --negative-prompt "a tree"`
    """
    with errors_shown():
        check_num_images(num_images)
        import offbeat
        from offbeat.core.templates import check_text

        check_text("prompt", prompt)
        check_text("negative prompt", negative_prompt)
        folder = out or free_folder(Path("runs") / "generate")
        progress = ProgressLine()
        with stopped_shown(f"{folder} is not finished: remove it, or give another --out"):
            offbeat.generate(
                prompt,
                negative_prompt=negative_prompt,
                num_images=num_images,
                num_inference_steps=steps,
                guidance_scale=guidance,
                prior_num_inference_steps=prior_steps,
                prior_guidance_scale=prior_guidance,
                seed=seed,
                backbone=backbone,
                device=place(),
                out=folder,
                observe=progress,
            )
        progress.close()
    typer.echo(f"{folder / 'contact.png'}")
