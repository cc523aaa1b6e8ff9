"""``offbeat samples``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offbeat.cli.output import errors_shown, printable


def samples(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to; it is made if it is not there.")
    ] = Path("samples"),
) -> None:
    """Write two sample pictures to try `paint` and `fuse` with: artwork.png and content.png.

    pocket drew both. A file of that name that is there stays as it is.
    """
    with errors_shown():
        from offbeat.files.disk import make_folder, write_atomic

        source = Path(__file__).parent.parent / "samples"
        for path in sorted(source.glob("*.png")):
            target = folder / path.name
            if target.exists():
                typer.secho(f"note: {printable(target)} is there already; it stays", err=True)
            else:
                make_folder(folder)
                write_atomic(target, path.read_bytes())
            typer.echo(printable(target))
