"""``offbeat fuse``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from offbeat.cli.options import Place, Reader, Settings, TrainedFile, anywhere, placing
from offbeat.cli.output import (
    check_num_images,
    errors_shown,
    folder_for,
    resumable,
    settings_of,
    show_result,
    weights_of,
)


@placing
def fuse(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="WORD[=WEIGHT]...",
            help="What to mix: `pig=0.55 sheep=0.25 ...`; or `cat.png owl`, where a method takes "
            "pictures.",
        ),
    ],
    method: Annotated[
        str,
        typer.Option(help="`distok`, `cretok`, `conceptlab`, `magicmix`, or a plug-in that fuses."),
    ] = "distok",
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Draw the path from the first word to the second.")
    ] = False,
    grid: Annotated[
        bool, typer.Option("--grid", help="Fill the triangle between three words.")
    ] = False,
    num: Annotated[
        Optional[int],  # noqa: UP045 - typer reads it at run time on Python 3.10
        typer.Option(
            min=2, help="Concepts on the path (9 if not given) or a side of the triangle (5)."
        ),
    ] = None,
    num_images: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--num-images",
            "-n",
            min=1,
            help="Pictures of each concept; 8, on a path 3, in a triangle or of two pictures 1 if "
            "not given.",
        ),
    ] = None,
    prompt: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="With `{concept}` where it stands; the method's own if not given."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")] = 0,
    trained: TrainedFile = None,
    judge: Reader = "auto",
    settings: Settings = None,
    backbone: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="A checkpoint: name (`offbeat list backbones`), folder or hub id; the bundled one "
            "in the form that the method needs if not given."
        ),
    ] = None,
    place: Place = anywhere,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Run folder; `runs/WORDS-SEED` and a number if not given."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in `--out`, or the newest.")
    ] = False,
) -> None:
    """Make one thing of several WORDs.

    **Examples**

    `offbeat fuse pig=0.55 sheep=0.25 snake=0.2` draws one animal that is all three.

    `offbeat fuse castle teapot --method conceptlab` searches for it anew, which takes longer.

    `offbeat fuse --sweep frog owl --num 9` draws the path between two.

    `offbeat fuse --grid frog owl bee` fills the triangle between three.

    `offbeat fuse cat.png teapot --method magicmix` makes a teapot that lies as the cat does.

    `offbeat fuse pig.png octopus.png --method conceptlab` learns a child of two pictures.

    `offbeat fuse --sweep cat.png dog.png --method diffmorpher -n 1` morphs one into the other.

    The run folder holds `contact.png`, `report.html`, the pictures, and `concept.safetensors` for
    `offbeat render` and for diffusers. `magicmix`, `diffmorpher`, `bass` and `agswap` mix two
    sources inside the denoising and learn no concept, so theirs holds none; of a path it holds a
    GIF, and an MP4 if ffmpeg is installed.

    Sources: DisTok, arXiv:2505.03667; CreTok, arXiv:2410.24160; ConceptLab, arXiv:2308.02669;
    MagicMix, arXiv:2210.16056; DiffMorpher, arXiv:2312.07409; BASS, arXiv:2310.01819; AGSwap (our
    reading), arXiv:2509.18699.
    """
    with errors_shown():
        import offbeat
        from offbeat.core.templates import check_text
        from offbeat.errors import ConfigError
        from offbeat.files.pictures import is_picture

        for word in words:
            check_text("word", word)
        if sweep and grid:
            raise ConfigError("--sweep, --grid: expected one of them, got both")
        weights = weights_of(words)
        names = [word for word, _ in weights]
        needed = 2 if sweep else 3 if grid else None
        if needed is not None and (len(words) != needed or any("=" in word for word in words)):
            raise ConfigError(
                f"--{'sweep' if sweep else 'grid'}: expected {needed} words without weights, got "
                f"{' '.join(words)}"
            )
        if num is not None and needed is None:
            raise ConfigError("--num: only for --sweep and --grid; pictures are --num-images")
        count = num or (9 if sweep else 5)
        few = grid or all(is_picture(name) for name in names)
        each = num_images or (1 if few else 3 if sweep else 8)
        concepts = count if sweep else count * (count + 1) // 2 if grid else 1
        check_num_images(each * concepts)
        folder = out or folder_for(" ".join(names), seed, resume=resume)
        common: dict[str, Any] = {
            "method": method,
            "config": settings_of(settings),
            "trained": trained,
            "prompt": prompt,
            "seed": seed,
            "judge": judge,
            "backbone": backbone,
            "device": place(),
            "out": folder,
            "resume": resume,
            "num_images": each,
        }
        with resumable(folder) as progress:
            common["observe"] = progress
            if sweep:
                result = offbeat.sweep(*names, num=count, **common)
            elif grid:
                result = offbeat.grid(*names, num=count, **common)
            else:
                result = offbeat.fuse(weights, **common)
    show_result(result.summary, folder / "contact.png")
