"""``offbeat list``."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import typer

from offbeat.cli.output import errors_shown

Kind = Literal["methods", "backbones", "judges", "metrics"]


def listing(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """List the names that the other commands take."""
    with errors_shown():
        from offbeat import registry

        for name in registry.names(cast(registry.Kind, kind.removesuffix("s"))):
            typer.echo(name)
