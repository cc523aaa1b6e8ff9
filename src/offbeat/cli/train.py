"""``offbeat train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offbeat.cli import options as shared
from offbeat.cli.output import at_work, folder_name, settings_of, show_result


@shared.placing
def train(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="`cretok`, `distok`, or a plug-in that trains.")
    ],
    vocabulary: Annotated[
        str | None,
        typer.Option(
            help="`substitute-60`, `animals`, or a file with one word a line; by default the words "
            "that the checkpoint was taught."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same result.")] = 0,
    judge: Annotated[
        str,
        typer.Option(
            help="Who reads what DisTok's tokens draw: `auto` is the checkpoint's own towers; or "
            "`none`, `clip`, a vision-language model, its folder or hub id."
        ),
    ] = "auto",
    settings: shared.Settings = None,
    backbone: shared.Checkpoint = "pocket",
    place: shared.Place = shared.anywhere,
    out: Annotated[Path | None, shared.run_folder("METHOD-SEED")] = None,
    resume: shared.Resume = False,
) -> None:
    """Train what `fuse` and `dream` use, once for a checkpoint.

    **Examples**

    `offbeat train distok --vocabulary my-words.txt --out runs/mine`, and then
    `offbeat fuse teapot castle --trained runs/mine`.

    `offbeat train cretok --set theta=0.3 --set num_steps=2000`

    Killed, it goes on with `--resume`, and ends with the same file.

    Sources: CreTok, arXiv:2410.24160; DisTok, arXiv:2505.03667.
    """
    with at_work(out, folder_name(method, seed), place, resume=resume) as common:
        import offbeat

        trained = offbeat.train(
            method,
            vocabulary=vocabulary,
            config=settings_of(settings),
            seed=seed,
            judge=judge,
            backbone=backbone,
            **common,
        )
    folder = common["out"]
    show_result(trained.readings, folder / f"{method}.safetensors", folder / "contact.png")
