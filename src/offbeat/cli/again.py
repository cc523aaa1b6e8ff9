"""``offbeat again``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from offbeat.cli.output import ProgressLine, errors_shown


def again(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A PNG that Offbeat drew.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time on Python 3.10
        typer.Option(help="Where to write it; here, as `PICTURE-again.png`, if not given."),
    ] = None,
    run: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Its run folder, if it does not lie in it; only LoRA factors need it."),
    ] = None,
    source: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(
            help="A picture that it was made from, or a folder of such, if they lie elsewhere "
            "now. Several."
        ),
    ] = None,
    backbone: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The checkpoint that drew it, if it now lies elsewhere."),
    ] = None,
    device: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Where to run; where it was drawn if not given."),
    ] = None,
) -> None:
    """Make PICTURE again from what it keeps inside: the same bytes on the same machine.

    Exit code 1 says that it came out otherwise, and the notes why that may be.

    **Example**

    `offbeat again runs/handbag-0/images/0003.png`
    """
    with errors_shown():
        import offbeat

        # not beside it: a run folder holds what the run drew, and nothing else
        target = out or Path(f"{picture.stem}-again.png")
        progress = ProgressLine()
        found = offbeat.again(
            picture,
            run=run,
            sources=source or (),
            backbone=backbone,
            device=device,
            out=target,
            observe=progress,
        )
        progress.close()
    for note in found.notes:
        typer.secho(f"note: {note}", fg="yellow", err=True)
    if found.same:
        typer.echo(f"{target}: the same, byte for byte")
    elif found.same_pixels:
        typer.echo(f"{target}: the same pixels; another tool wrote the first file")
    else:
        typer.echo(f"{target}: drawn again, and not the same picture")
        raise typer.Exit(1)
