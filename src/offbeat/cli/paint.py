"""``offbeat paint``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from offbeat.cli.options import Checkpoint, Place, Settings, anywhere, placing
from offbeat.cli.output import (
    check_num_images,
    errors_shown,
    folder_for,
    resumable,
    settings_of,
    show_result,
)


@placing
def paint(
    art: Annotated[Path, typer.Option(help="The artwork: a picture file.")],
    content: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time on Python 3.10
        typer.Option(help="What to paint into it: a picture file."),
    ] = None,
    prompt: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What shall be on the picture, e.g. `a picture of a cat`."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="`creativesynth`, or a plug-in that paints.")
    ] = "creativesynth",
    strength: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="From 0, the artwork, to 1, the content; what suits the checkpoint if not given."
        ),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Draw a strip of pictures over the strength.")
    ] = False,
    num: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=2, help="Strengths on the strip; 9 if not given."),
    ] = None,
    num_images: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--num-images",
            "-n",
            min=1,
            help="Pictures; 4, on a strip 1 of each strength, if not given.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")] = 0,
    settings: Settings = None,
    backbone: Checkpoint = "pocket-sd",
    place: Place = anywhere,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Run folder; `runs/ARTWORK-SEED` and a number if not given."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in `--out`, or the newest.")
    ] = False,
) -> None:
    """Paint a content, a text or both into an artwork.

    **Examples**

    `offbeat paint --art castle.png --content cat.jpg` paints the cat in the castle's hand.

    `offbeat paint --art castle.png --prompt "a picture of an owl"` makes it an owl.

    `offbeat paint --art castle.png` varies the castle.

    `offbeat paint --art castle.png --content cat.jpg --sweep` draws the way from one to the other.

    Pictures of another shape are padded to a square. The artwork's inversion is cached: the second
    painting from it starts at once.

    Source: CreativeSynth, arXiv:2401.14066.
    """
    with errors_shown():
        import offbeat
        from offbeat.errors import ConfigError

        if num is not None and not sweep:
            raise ConfigError("--num: only for --sweep; pictures are --num-images")
        strengths = (num or 9) if sweep else None
        each = num_images or (1 if sweep else 4)
        check_num_images(each * (strengths or 1))
        folder = out or folder_for(art.stem, seed, resume=resume)
        with resumable(folder) as progress:
            result = offbeat.paint(
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
                device=place(),
                out=folder,
                resume=resume,
                observe=progress,
            )
    show_result(result.summary, folder / "contact.png")
