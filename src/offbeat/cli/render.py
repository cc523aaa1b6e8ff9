"""``offbeat render``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from offbeat.cli.options import Place, anywhere, placing
from offbeat.cli.output import (
    ProgressLine,
    check_num_images,
    errors_shown,
    free_folder,
    stopped_shown,
)


@placing
def render(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="CONCEPT...",
            help="A finished run folder, `FOLDER:NUMBER` for one concept of several, or a "
            "`concept.safetensors`, a picture, or a token of another tool. Several share a prompt.",
        ),
    ],
    prompt: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it at run time on Python 3.10
        typer.Option(
            help="With `{concept}` where it stands, e.g. `an oil painting of a {concept}`, and "
            "`{concept2}`, `{concept3}`, ... for further ones; the prompt that it was learned in "
            "if not given."
        ),
    ] = None,
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=1, help="Pictures.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")] = 0,
    backbone: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The checkpoint that it was learned on, if it now lies elsewhere."),
    ] = None,
    place: Place = anywhere,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Run folder; `RUN-render` and a number if not given."),
    ] = None,
) -> None:
    """Draw what a run learned, in other prompts.

    **Example**

    `offbeat render runs/handbag-0 --prompt "an outline drawing of a {concept}" -n 4`

    `offbeat render runs/dream-0:3 runs/castle-0 --prompt "a {concept} and a {concept2}"`
    """
    with errors_shown():
        check_num_images(num_images)
        import offbeat

        source = Path(sources[0])
        named = source if source.name not in ("", "..") else source.resolve()  # "." has no name
        folder = out or free_folder(named.parent / f"{named.name.replace(':', '-')}-render")
        progress = ProgressLine()
        with stopped_shown(f"{folder} is not finished: remove it, or give another --out"):
            offbeat.render(
                sources,
                prompt=prompt,
                num_images=num_images,
                seed=seed,
                backbone=backbone,
                device=place(),
                out=folder,
                observe=progress,
            )
        progress.close()
    typer.echo(f"{folder / 'contact.png'}")
