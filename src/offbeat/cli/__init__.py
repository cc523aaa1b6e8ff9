"""The command line: parse options, call the Python function, show the result."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from offbeat.cli import (
    again,
    archive,
    bench,
    comfyui,
    doctor,
    dream,
    explore,
    export,
    fuse,
    generate,
    listing,
    models,
    paint,
    render,
    samples,
    score,
    show,
    studio,
    study,
    sweep,
    train,
    verify,
)

app = typer.Typer(
    name="offbeat",
    help="Creative image generation: still what was asked for, and not what everyone has seen.",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command("explore")(explore.explore)
app.command("fuse")(fuse.fuse)
app.command("dream")(dream.dream)
app.command("paint")(paint.paint)
app.command("generate")(generate.generate)
app.command("render")(render.render)
app.command("train")(train.train)
app.command("sweep")(sweep.sweep)
app.command("archive")(archive.archive)
app.command("score")(score.score)
app.command("show")(show.show)
app.command("again")(again.again)
app.command("export")(export.export)
app.command("import")(export.import_)
app.command("samples")(samples.samples)
app.command("studio")(studio.studio)
app.command("doctor")(doctor.doctor)
app.command("verify")(verify.verify)
app.add_typer(study.app, name="study")
app.add_typer(bench.app, name="bench")
app.add_typer(comfyui.app, name="comfyui")
app.command("list")(listing.listing)
app.add_typer(models.app, name="models")


def _show_version(wanted: bool) -> None:
    if wanted:
        from offbeat import __version__

        typer.echo(f"offbeat {__version__}")
        raise typer.Exit


FIRST = """\
Offbeat draws pictures that are still what was asked for, and yet not what everyone has seen.

Try first:
  offbeat explore teapot           unusual teapots in four directions; a minute or two on two cores
  offbeat fuse dragon butterfly    one thing of two words
  offbeat studio                   the same in your browser
  offbeat doctor                   is everything here as it should be?

All commands: offbeat --help. One command: offbeat explore --help."""


@app.callback(invoke_without_command=True)
def offbeat(
    context: typer.Context,
    offline: Annotated[bool, typer.Option("--offline", help="Use no network.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Read the options that hold for every command."""
    if offline:
        from offbeat.checkpoints.hub import go_offline

        go_offline()
    if context.invoked_subcommand is None:
        typer.echo(FIRST)


def main() -> None:
    """Run the command line; the console script's entry."""
    # threads that spin while they wait make torch ten times slower on a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
