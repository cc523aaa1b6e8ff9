"""``offbeat bench``: the papers' claims, and speed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offbeat.cli.output import errors_shown

app = typer.Typer(
    help="Measure claims and speed, each beside what it is to beat.", no_args_is_help=True
)

Tables = Annotated[
    list[str] | None,
    typer.Argument(help="Bundled tables (`offbeat bench list`) or YAML files; all if none."),
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]


@app.command("papers")
def papers(
    tables: Tables = None,
    out: Annotated[Path, typer.Option(help="Folder of cells; a stopped run goes on.")] = Path(
        "out/papers"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Each table's short form.")] = False,
    backbone: Annotated[
        str | None,
        typer.Option(help="Another checkpoint than the tables name."),
    ] = None,
    part: Annotated[str, typer.Option(help="I/N: this process does items I of N.")] = "0/1",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that share the items. [default: this one]")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Workers of a Ray cluster, or auto.")
    ] = None,
    threads: Threads = 1,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a Markdown page there, its sheets in a folder beside it."),
    ] = None,
) -> None:
    """Re-run the papers' claims: a table each, with intervals, paired tests and verdicts."""
    with errors_shown():
        from offbeat.bench import papers as module

        done = module.run(
            tables or (),
            out,
            quick=quick,
            threads=threads,
            part=module.part_of(part),
            workers=workers,
            ray=ray,
            backbone=backbone,
            tell=typer.echo,
        )
        if report is not None:
            module.write_report(done, report)
        for folder in done:
            typer.echo(f"done: {folder / 'results.json'}")


@app.command("list")
def listing() -> None:
    """List the bundled tables."""
    with errors_shown():
        from offbeat.bench.spec import bundled, read_table

        for name in bundled():
            typer.echo(f"{name:16} {read_table(name).title}")


@app.command("speed")
def speed(
    runs: Annotated[int, typer.Option(min=2, help="Counted runs of each side.")] = 7,
    threads: Threads = 2,
) -> None:
    """Time ours against the plain way, in turn, on the same weights."""
    with errors_shown():
        from offbeat.bench import speed as module

        typer.echo(module.report(runs=runs, threads=threads))
