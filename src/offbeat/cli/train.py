"""``offbeat train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from offbeat.cli.options import Checkpoint, Place, Settings, anywhere, placing
from offbeat.cli.output import errors_shown, folder_for, resumable, settings_of


@placing
def train(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="`cretok`, `distok`, or a plug-in that trains.")
    ],
    vocabulary: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it at run time on Python 3.10
        typer.Option(
            help="`substitute-60`, `animals`, or a file with one word a line; what the checkpoint "
            "was taught if not given."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same result.")] = 0,
    judge: Annotated[
        str,
        typer.Option(
            help="Who reads what DisTok's tokens draw: `auto` is the checkpoint's own towers; or "
            "`none`, `clip`, a vision-language model, its folder or hub id."
        ),
    ] = "auto",
    settings: Settings = None,
    backbone: Checkpoint = "pocket",
    place: Place = anywhere,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Run folder; `runs/METHOD-SEED` and a number if not given."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in `--out`, or the newest.")
    ] = False,
) -> None:
    """Train what `fuse` and `dream` use, once for a checkpoint.

    **Examples**

    `offbeat train distok --vocabulary my-words.txt --out runs/mine`, and then
    `offbeat fuse teapot castle --trained runs/mine`.

    `offbeat train cretok --set theta=0.3 --set num_steps=2000`

    Killed, it goes on with `--resume`, and ends with the same file.

    Sources: CreTok, arXiv:2410.24160; DisTok, arXiv:2505.03667.
    """
    with errors_shown():
        import offbeat

        folder = out or folder_for(method, seed, resume=resume)
        with resumable(folder) as progress:
            trained = offbeat.train(
                method,
                vocabulary=vocabulary,
                config=settings_of(settings),
                seed=seed,
                judge=judge,
                backbone=backbone,
                device=place(),
                out=folder,
                resume=resume,
                observe=progress,
            )
    for warning in trained.readings.get("warnings", ()):
        typer.secho(f"note: {warning}", fg="yellow", err=True)
    typer.echo(f"{folder / f'{method}.safetensors'}")
    typer.echo(f"{folder / 'contact.png'}")
