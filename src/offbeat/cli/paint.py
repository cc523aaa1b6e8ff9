"""``offbeat paint``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offbeat.cli import options as shared
from offbeat.cli.output import at_work, check_num_images, folder_name, settings_of, show_result


@shared.placing
def paint(
    art: Annotated[Path, typer.Option(help="The artwork: a picture file.")],
    content: Annotated[
        Path | None,
        typer.Option(help="What to paint into it: a picture file."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="What the picture is to show, e.g. `a picture of a cat`."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="`creativesynth`, or a plug-in that paints.")
    ] = "creativesynth",
    strength: Annotated[
        float | None,
        typer.Option(
            help="From 0, the artwork, to 1, the content; by default what suits the checkpoint."
        ),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Draw one picture for each of several strengths.")
    ] = False,
    num: Annotated[
        int | None,
        typer.Option(min=2, help="Number of strengths; by default 9."),
    ] = None,
    num_images: Annotated[
        int | None,
        typer.Option(
            "--num-images",
            "-n",
            min=1,
            help="Pictures; by default 4, with `--sweep` 1 of each strength.",
        ),
    ] = None,
    seed: shared.Seed = 0,
    settings: shared.Settings = None,
    backbone: shared.Checkpoint = "pocket-sd",
    place: shared.Place = shared.anywhere,
    out: Annotated[Path | None, shared.run_folder("ARTWORK-SEED")] = None,
    resume: shared.Resume = False,
) -> None:
    """Paint a content, a text or both into an artwork.

    **Examples**

    `offbeat paint --art castle.png --content cat.jpg` paints the cat in the castle's style.

    `offbeat paint --art castle.png --prompt "a picture of an owl"` makes it an owl.

    `offbeat paint --art castle.png` varies the castle.

    `offbeat paint --art castle.png --content cat.jpg --sweep` draws the way from one to the other.

    Pictures of another shape are padded to a square. The artwork's inversion is cached: the second
    painting from it starts at once.

    Source: CreativeSynth, arXiv:2401.14066.
    """
    with at_work(out, folder_name(art.stem, seed), place, resume=resume) as common:
        import offbeat
        from offbeat.errors import ConfigError

        if num is not None and not sweep:
            raise ConfigError("--num: only for --sweep; pictures are --num-images")
        strengths = (num or 9) if sweep else None
        each = num_images or (1 if sweep else 4)
        check_num_images(each * (strengths or 1))
        run = offbeat.paint(
            art,
            content,
            prompt,
            method=method,
            strength=strength,
            sweep=strengths,
            num_images=each,
            config=settings_of(settings),
            seed=seed,
            backbone=backbone,
            **common,
        )
    show_result(run.summary, common["out"] / "contact.png")
