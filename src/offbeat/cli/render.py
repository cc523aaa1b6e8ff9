"""``offbeat render``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from offbeat.cli._show import (
    ProgressLine,
    check_num_images,
    errors_shown,
    free_folder,
    stopped_shown,
)


def render(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    prompt: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it at run time on Python 3.10
        typer.Option(
            help="With `{concept}` where it stands, e.g. `an oil painting of a {concept}`; the "
            "prompt that it was learned in if not given."
        ),
    ] = None,
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=1, help="Pictures.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")] = 0,
    backbone: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The checkpoint that it was learned on, if it now lies elsewhere."),
    ] = None,
    device: Annotated[str, typer.Option(help="`cpu`, `cuda`, `cuda:1`, `mps`.")] = "cpu",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Run folder; `RUN-render` and a number if not given."),
    ] = None,
) -> None:
    """Draw what a run learned, in other prompts.

    **Example**

    `offbeat render runs/handbag-0 --prompt "an outline drawing of a {concept}" -n 4`
    """
    with errors_shown():
        check_num_images(num_images)
        from offbeat import run

        named = source if source.name not in ("", "..") else source.resolve()  # "." has no name
        folder = out or free_folder(named.parent / f"{named.name}-render")
        progress = ProgressLine()
        with stopped_shown(f"{folder} is not finished: remove it, or give another --out"):
            run.render(
                source,
                prompt=prompt,
                num_images=num_images,
                seed=seed,
                backbone=backbone,
                device=device,
                out=folder,
                observe=progress,
            )
        progress.close()
    typer.echo(f"{folder / 'contact.png'}")
