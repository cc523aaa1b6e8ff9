"""``offbeat sweep``: many runs by one plan."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from offbeat.cli import options as shared
from offbeat.cli.output import (
    ProgressLine,
    errors_shown,
    printable,
    show_note,
    signals_handled,
    stopped_shown,
)

Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes, or actors of Ray; by default one a card, or a core."),
]
Threads = Annotated[
    int,
    typer.Option(
        min=1, help="CPU threads of each; with 1 no byte depends on the number of workers."
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Work on a Ray cluster: `auto`, the address of its head, or `local` to start one here "
        "(`pip install 'offbeat[ray]'`).",
    ),
]


@shared.placing
def sweep(
    plan: Annotated[Path, typer.Argument(metavar="FILE", help="A plan in YAML: `docs/scale.md`.")],
    out: Annotated[
        str,
        typer.Option(
            help="Folder that all workers see, or an address such as `s3://bucket/sweep`; by "
            "default `runs/` and the plan's name."
        ),
    ] = "",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Skip what is finished, go on with what is not; the plan may have grown.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Count the tasks and run the first one, for the evaluations and the time that all "
            "will take; nothing is kept.",
        ),
    ] = False,
    workers: Workers = None,
    threads: Threads = 1,
    ray: Ray = None,
    place: shared.Place = shared.anywhere,
) -> None:
    """Run every task of a plan: subjects, methods, settings, seeds, checkpoints.

    Each task is one command and writes one run folder under `runs/`. At the end there are
    `table.csv` (and `table.parquet` where pyarrow is installed), `contact.png` by the plan's axes
    and `report.html`. A task that fails is reported, and costs no other.

    **Examples**

    `offbeat sweep plan.yaml --dry-run` counts, and measures the first task.

    `offbeat sweep plan.yaml --out runs/chairs --workers 2` runs it.

    `offbeat sweep plan.yaml --out /shared/chairs --ray auto --resume` goes on with it on a cluster.
    """
    folder = out or f"runs/{plan.stem}"
    again = f"to go on, add --resume --out {shlex.quote(folder)} to the same command"
    with signals_handled(), errors_shown(), stopped_shown(again):
        from offbeat.checkpoints.placement import Placement
        from offbeat.scale.sweep import run_plan, try_first

        made = place()
        placement = None if made == Placement() else made
        if dry_run:
            costs = try_first(plan, workers=workers, threads=threads, placement=placement)
            for name, value in costs.items():
                typer.echo(printable(f"{name.replace('_', ' ')}: {value}"))
            return
        progress = ProgressLine()
        done = run_plan(
            plan,
            out=folder,
            resume=resume,
            workers=workers,
            threads=threads,
            ray=ray,
            placement=placement,
            observe=progress,
        )
        progress.close()
    for problem in done.problems:
        show_note(problem)
    typer.echo(printable(done.in_words))
    typer.echo(printable(f"{folder}/report.html"))
    if done.failed:
        raise typer.Exit(1)
