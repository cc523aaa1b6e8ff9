"""``offbeat list``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, cast

import typer

from offbeat.cli.output import errors_shown

Kind = Literal["methods", "backbones", "judges", "metrics"]


def listing(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """List the names that the other commands take; of methods, which commands, and what they need.

    `train` stands where `offbeat train` learns something first; `sweep`, `grid` and `evolve` are
    forms of `fuse`.
    """
    with errors_shown():
        from offbeat import registry

        if kind == "methods":
            for name, verbs, needs in _methods():
                typer.echo(f"{name:18}  {verbs:30}  {needs}")
            return
        for name in registry.names(cast(registry.Kind, kind.removesuffix("s"))):
            typer.echo(name)


def _methods() -> Iterator[tuple[str, str, str]]:
    """Yield each method's name, its commands, and the checkpoints that it runs on."""
    from offbeat import registry
    from offbeat.errors import OffbeatError
    from offbeat.methods.settings import VERBS, verbs_of
    from offbeat.protocols import TextBackbone
    from offbeat.protocols.capabilities import backbones_for

    everything = set(backbones_for(TextBackbone))
    for name in registry.names("method"):
        try:
            method = registry.find("method", name)
        except OffbeatError as error:  # a plug-in that cannot be imported
            yield name, "", str(error)
            continue
        verbs = verbs_of(method)
        needs = getattr(method, "needs", None)
        fitting = everything if needs is None else set(backbones_for(needs))
        shown = (
            "any checkpoint" if fitting >= everything else f"one of {', '.join(sorted(fitting))}"
        )
        yield name, " ".join(verb for verb in VERBS if verb in verbs), shown
