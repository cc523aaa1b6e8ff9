"""``offbeat dream``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from offbeat.cli import options as shared
from offbeat.cli.output import at_work, folder_name, settings_of, show_result


@shared.placing
def dream(
    num: Annotated[int, typer.Option("--num-images", "-n", min=1, help="Concepts.")] = 16,
    law: Annotated[
        Literal["gaussian", "laplace", "cauchy"] | None,
        typer.Option(
            help="Distribution of DisTok's noise; heavier tails give stranger dreams: `cauchy` "
            "has the heaviest."
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="`distok`, `conceptlab`, or a plug-in that dreams.")
    ] = "distok",
    subject: Annotated[
        str | None,
        typer.Option(help="What kind of thing ConceptLab invents; by default `animal`."),
    ] = None,
    max_cosine: Annotated[
        float,
        typer.Option(
            min=-1,
            max=1,
            help="Drop a dream whose text has this cosine, or more, to one that is kept.",
        ),
    ] = 0.95,
    prompt: shared.Template = None,
    seed: shared.Seed = 0,
    trained: shared.TrainedFile = None,
    judge: shared.Reader = "auto",
    guide: Annotated[
        str,
        typer.Option(
            help="Who tells ConceptLab's search what it sees: `clip`, `none`, a vision-language "
            "model, its folder or hub id, or `api:MODEL@ADDRESS`."
        ),
    ] = "clip",
    settings: shared.Settings = None,
    backbone: shared.Checkpoint = "pocket",
    place: shared.Place = shared.anywhere,
    out: Annotated[Path | None, shared.run_folder("dream-SEED")] = None,
    resume: shared.Resume = False,
) -> None:
    """Make concepts that have no name, and draw one picture of each.

    **Examples**

    `offbeat dream -n 16 --law laplace` draws sixteen, near-duplicates dropped.

    `offbeat dream -n 4 --method conceptlab --subject pet` searches for new pets, some seconds each.

    `offbeat render runs/dream-0:3 --prompt "an outline drawing of a {concept}"` reuses the fourth.

    Sources: DisTok, arXiv:2505.03667; ConceptLab, arXiv:2308.02669.
    """
    first = folder_name("dream", seed)
    with at_work(out, first, place, num_images=num, resume=resume) as common:
        import offbeat

        run = offbeat.dream(
            num,
            method=method,
            subject=subject,
            law=law,
            config=settings_of(settings),
            trained=trained,
            max_cosine=max_cosine,
            prompt=prompt,
            seed=seed,
            judge=judge,
            guide=guide,
            backbone=backbone,
            **common,
        )
    show_result(run.summary, common["out"] / "contact.png")
