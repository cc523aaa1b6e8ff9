"""``offbeat dream``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from offbeat.cli.options import Checkpoint, Place, Reader, Settings, TrainedFile, anywhere, placing
from offbeat.cli.output import (
    check_num_images,
    errors_shown,
    folder_for,
    resumable,
    settings_of,
    show_result,
)


@placing
def dream(
    num: Annotated[int, typer.Option("--num-images", "-n", min=1, help="Concepts.")] = 16,
    law: Annotated[
        Optional[Literal["gaussian", "laplace", "cauchy"]],  # noqa: UP045 - read at run time
        typer.Option(help="What DisTok's noise is drawn from; the heavier its tails, the wilder."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="`distok`, `conceptlab`, or a plug-in that dreams.")
    ] = "distok",
    subject: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What kind of thing ConceptLab invents: `animal` if not given."),
    ] = None,
    max_cosine: Annotated[
        float,
        typer.Option(min=-1, max=1, help="Two dreams nearer than this are one: it is dropped."),
    ] = 0.95,
    prompt: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="With `{concept}` where it stands; the method's own if not given."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same dreams.")] = 0,
    trained: TrainedFile = None,
    judge: Reader = "auto",
    guide: Annotated[
        str,
        typer.Option(
            help="Who says what ConceptLab's search sees: `clip`, `none`, a vision-language model, "
            "its folder or hub id, or `api:MODEL@ADDRESS`."
        ),
    ] = "clip",
    settings: Settings = None,
    backbone: Checkpoint = "pocket",
    place: Place = anywhere,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Run folder; `runs/dream-SEED` and a number if not given."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in `--out`, or the newest.")
    ] = False,
) -> None:
    """Draw concepts that nobody named.

    **Examples**

    `offbeat dream -n 16 --law laplace` draws sixteen, near-duplicates dropped.

    `offbeat dream -n 4 --method conceptlab --subject pet` searches for new pets, some seconds each.

    `offbeat render runs/dream-0:3 --prompt "an outline drawing of a {concept}"` reuses the fourth.

    Sources: DisTok, arXiv:2505.03667; ConceptLab, arXiv:2308.02669.
    """
    with errors_shown():
        check_num_images(num)
        import offbeat

        folder = out or folder_for("dream", seed, resume=resume)
        with resumable(folder) as progress:
            result = offbeat.dream(
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
                device=place(),
                out=folder,
                resume=resume,
                observe=progress,
            )
    show_result(result.summary, folder / "contact.png")
