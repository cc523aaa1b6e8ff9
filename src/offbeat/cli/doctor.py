"""``offbeat doctor``."""

from __future__ import annotations

import typer

from offbeat.cli.output import errors_shown


def doctor() -> None:
    """Look at this machine and this installation; exit with 1 if something is wrong."""
    with errors_shown():
        import offbeat

        findings = offbeat.doctor()
    width = max(len(one.what) for one in findings)
    for one in findings:
        colour = {"fine": None, "note": "yellow", "wrong": "red"}[one.level]
        mark = {"fine": " ", "note": "-", "wrong": "!"}[one.level]
        typer.secho(f"{mark} {one.what:<{width}}  {one.found}", fg=colour)
        if one.advice:
            typer.echo(f"  {'':<{width}}  {one.advice}")
    wrong = sum(one.level == "wrong" for one in findings)
    typer.echo(f"{wrong} things are wrong." if wrong else "Nothing is wrong.")
    raise typer.Exit(1 if wrong else 0)
