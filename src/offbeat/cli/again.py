"""``offbeat again``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offbeat.cli.output import ProgressLine, errors_shown, show_note, signals_handled


def again(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A PNG that Offbeat drew.")],
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; by default `PICTURE-again.png` in this folder."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Its run folder, if it was moved out of it; only LoRA factors need it."),
    ] = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(
            help="A picture that it was made from, or a folder of such, if they were moved. "
            "Repeatable."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="The checkpoint that drew it, if it is not on this machine."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Where to run; by default where it was drawn."),
    ] = None,
) -> None:
    """Make PICTURE again from what it keeps inside: the same bytes on the same machine.

    Exit code 1 means that the new picture differs; the notes say what may be the reason.

    **Example**

    `offbeat again runs/handbag-0/images/0003.png`
    """
    with signals_handled(), errors_shown():
        import offbeat

        # not beside it: a run folder holds what the run drew, and nothing else
        target = out or Path(f"{picture.stem}-again.png")
        progress = ProgressLine()
        made = offbeat.again(
            picture,
            run=run,
            sources=source or (),
            backbone=backbone,
            device=device,
            out=target,
            observe=progress,
        )
        progress.close()
    for note in made.notes:
        show_note(note)
    if made.same:
        typer.echo(f"{target}: the same, byte for byte")
    elif made.same_pixels:
        typer.echo(f"{target}: the same pixels; another tool wrote the first file")
    else:
        typer.echo(f"{target}: drawn again, and not the same picture")
        raise typer.Exit(1)
