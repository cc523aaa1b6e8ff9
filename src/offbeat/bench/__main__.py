"""``python -m offbeat.bench speed``, and ``exploration FOLDER`` and the like: see ``--help``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure speed and claims.", no_args_is_help=True, add_completion=False)


@app.command()
def speed(
    runs: Annotated[int, typer.Option(min=2, help="Counted runs of each side.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of both sides.")] = 2,
) -> None:
    """Time ours against the plain way, in turn, on the same weights."""
    from offbeat.bench import speed as module
    from offbeat.bench import speed_conceptlab, speed_cretok, speed_distok, speed_paint

    found = module.measure(runs=runs, threads=threads)
    parts = (
        speed_cretok.ratios,
        speed_distok.ratios,
        speed_conceptlab.ratios,
        speed_paint.ratios,
    )
    found += module.measure_steps(parts, runs=runs)
    typer.echo(module.table(found))
    typer.echo(speed_paint.memory())


@app.command()
def exploration(
    out: Annotated[Path, typer.Argument(help="Folder for cells, table and plot; resumable.")],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each cell.")] = 5,
    steps: Annotated[int, typer.Option(min=5, help="Steps of each search.")] = 50,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    part: Annotated[str, typer.Option(help="I/N: this process does cells I of N.")] = "0/1",
) -> None:
    """Re-run the exploration paper's claims on pocket."""
    from offbeat.bench import exploration as module

    index, _, count = part.partition("/")
    module.run(out, seeds=seeds, steps=steps, threads=threads, part=(int(index), int(count)))


@app.command()
def fusion(
    out: Annotated[Path, typer.Argument(help="Folder for cells, table and sheet; resumable.")],
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    part: Annotated[str, typer.Option(help="I/N: this process does cells I of N.")] = "0/1",
    skip: Annotated[str, typer.Option(help="Ways to leave out, with commas.")] = "",
) -> None:
    """Re-run the fusion papers' claims on pocket."""
    from offbeat.bench import fusion as module

    index, _, count = part.partition("/")
    ways = tuple(name for name in skip.split(",") if name)
    module.run(out, threads=threads, part=(int(index), int(count)), skip=ways)


@app.command()
def theta(
    out: Annotated[Path, typer.Argument(help="Folder for cells, table and sheets; resumable.")],
) -> None:
    """Train CreTok with several thetas on pocket, and compare what the tokens do."""
    from offbeat.bench import theta as module

    module.main(out)


@app.command()
def mixing(
    out: Annotated[Path, typer.Argument(help="Folder for cells, table and sheet; resumable.")],
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Mix eight pairs of words by every method that draws mixtures, beside plain ways."""
    from offbeat.bench import mixing as module

    module.run(out, threads=threads)


@app.command()
def paint(
    out: Annotated[Path, typer.Argument(help="Folder for cells, table and sheets; resumable.")],
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    part: Annotated[str, typer.Option(help="I/N: this process does cells I of N.")] = "0/1",
    backbone: Annotated[str, typer.Option(help="A checkpoint that can paint.")] = "pocket-sd",
) -> None:
    """Re-run CreativeSynth's claims: each part switched off, beside other ways."""
    from offbeat.bench import paint as module

    index, _, count = part.partition("/")
    module.run(out, threads=threads, part=(int(index), int(count)), backbone=backbone)


if __name__ == "__main__":
    app()
