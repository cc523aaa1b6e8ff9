"""``offbeat show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offbeat.cli.output import errors_shown, printable


def show(
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE...", help="PNG files; ours hold all.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Everything that the picture depends on, as JSON.")
    ] = False,
) -> None:
    """Show how pictures were made, from what they keep inside.

    Of a picture of AUTOMATIC1111 or ComfyUI's savers it shows prompt and settings too.
    """
    with errors_shown():
        import json

        from offbeat.files.png import read_infotext, read_recipe

        for number, picture in enumerate(pictures):
            if as_json:
                recipe = read_recipe(picture)
                text = json.dumps(recipe, indent=1, ensure_ascii=False, sort_keys=True)
                typer.echo(printable(text))
                continue
            if len(pictures) > 1:
                typer.secho(("\n" if number else "") + printable(picture), bold=True)
            typer.echo(printable(read_infotext(picture)))
