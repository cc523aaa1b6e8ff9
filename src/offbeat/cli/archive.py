"""``offbeat archive``: a map of concepts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from offbeat.cli import options as shared
from offbeat.cli.output import at_work, folder_name, show_result
from offbeat.cli.sweep import Ray, Threads, Workers

SEARCH, WORK = "What is searched", "Who works"


@shared.placing
def archive(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="What to draw: `teapot`.")],
    axis: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS",
            help="Of the map, at most two: `round..spiky` by texts, `with:bird` by what a judge "
            "finds, `learned` for what pictures differ most in (the default).",
        ),
    ] = None,
    cells: Annotated[int, typer.Option(min=2, max=64, help="Along a side of the map.")] = 8,
    kind: Annotated[
        Literal["grid", "cvt"], typer.Option(help="A grid, or cells of equal share (CVT).")
    ] = "grid",
    evaluations: Annotated[
        int, typer.Option("--evaluations", "-e", min=1, help="Concepts drawn and looked at.")
    ] = 256,
    emitter: Annotated[
        list[str] | None,
        typer.Option(
            help="Who proposes: `mutation`, `line`, `improvement`, `words` (all by default); to "
            "compare with, `random` or `seeds`. Repeatable.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            help="An exploration of the subject: what it learned is a direction, too. Repeatable.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    sigma: Annotated[
        float,
        typer.Option(
            help="How far proposals begin, in standard deviations of known tokens.",
            rich_help_panel=SEARCH,
        ),
    ] = 1.5,
    quality: Annotated[
        str,
        typer.Option(
            help="What is kept the best of: `validity`, or a metric (`offbeat list metrics`).",
            rich_help_panel=SEARCH,
        ),
    ] = "validity",
    judge: shared.Reader = "auto",
    num_images: Annotated[
        int, typer.Option("--num-images", "-n", min=1, help="Pictures of each concept.")
    ] = 2,
    num_inference_steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Denoising steps of each picture.")
    ] = None,
    prompt: shared.Template = None,
    seed: shared.Seed = 0,
    workers: Workers = None,
    threads: Threads = 1,
    ray: Ray = None,
    backbone: shared.Checkpoint = "pocket",
    place: shared.Place = shared.anywhere,
    out: Annotated[Path | None, shared.run_folder("archive-SUBJECT-SEED")] = None,
    resume: shared.Resume = False,
) -> None:
    """Fill a map with concepts that are still a SUBJECT and look different from each other.

    **Examples**

    `offbeat archive teapot --steps 8` learns both axes from pictures.

    `offbeat archive chair --axis "round..spiky" --axis with:cactus --workers 2`

    `offbeat render runs/archive-teapot-0:12 --prompt "a red {concept}"` draws an elite.

    `offbeat fuse --sweep runs/archive-teapot-0:3 runs/archive-teapot-0:12` walks between two.

    The folder holds `contact.png` (the elites at their places), `map.png` (their quality),
    `curve.png` and a concept for each. Source: MAP-Elites, arXiv:1504.04909.
    """
    first = folder_name(f"archive {subject}", seed)
    with at_work(out, first, place, num_images=num_images, resume=resume) as common:
        from contextlib import closing

        import offbeat
        from offbeat.scale.archive import EMITTERS
        from offbeat.scale.engine import open_engine

        with closing(open_engine(workers or 1, threads=threads, ray=ray)) as engine:
            made = offbeat.archive(
                subject,
                axes=tuple(axis or ()),
                kind=kind,
                cells=cells,
                evaluations=evaluations,
                emitters=tuple(emitter or EMITTERS),
                sigma=sigma,
                runs=tuple(run or ()),
                quality=quality,
                judge=judge,
                num_images=num_images,
                num_inference_steps=num_inference_steps,
                prompt=prompt,
                seed=seed,
                engine=engine,
                backbone=backbone,
                **common,
            )
    show_result(made.summary, common["out"] / "contact.png", common["out"] / "report.html")
