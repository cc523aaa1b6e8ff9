"""``offbeat doctor``."""

from __future__ import annotations

from dataclasses import asdict

import typer

from offbeat.cli.output import Json, errors_shown, show_json


def doctor(json: Json = False) -> None:
    """Look at this machine and this installation; exit with 1 if something is wrong."""
    with errors_shown():
        import offbeat

        findings = offbeat.doctor()
    wrong = sum(finding.level == "wrong" for finding in findings)
    if json:
        show_json([asdict(finding) for finding in findings])
        raise typer.Exit(1 if wrong else 0)
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        colour = {"fine": None, "note": "yellow", "wrong": "red"}[finding.level]
        mark = {"fine": " ", "note": "-", "wrong": "!"}[finding.level]
        typer.secho(f"{mark} {finding.what:<{width}}  {finding.found}", fg=colour)
        if finding.advice:
            typer.echo(f"  {'':<{width}}  {finding.advice}")
    typer.echo(f"{wrong} things are wrong." if wrong else "Nothing is wrong.")
    raise typer.Exit(1 if wrong else 0)
