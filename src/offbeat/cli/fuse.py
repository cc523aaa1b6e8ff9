"""``offbeat fuse``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offbeat.cli import options as shared
from offbeat.cli.output import (
    at_work,
    check_num_images,
    folder_name,
    settings_of,
    show_result,
    weights_of,
)


@shared.placing
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
        typer.Option(
            help="Learned: `distok`, `cretok`, `conceptlab`. Drawn: `magicmix`, `diffmorpher`, "
            "`bass`, `agswap`. To compare with: `raw-prompt`, `interpolation`, `best-of-n`. Or a "
            "plug-in; `offbeat list methods` says what each needs."
        ),
    ] = "distok",
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Draw the path from the first word to the second.")
    ] = False,
    grid: Annotated[
        bool, typer.Option("--grid", help="Fill the triangle between three words.")
    ] = False,
    num: Annotated[
        int | None,
        typer.Option(
            min=2, help="Concepts on the path (by default 9) or a side of the triangle (5)."
        ),
    ] = None,
    num_images: Annotated[
        int | None,
        typer.Option(
            "--num-images",
            "-n",
            min=1,
            help="Pictures of each concept; by default 8, on a path 3, in a triangle or of two "
            "pictures 1.",
        ),
    ] = None,
    prompt: shared.Template = None,
    seed: shared.Seed = 0,
    trained: shared.TrainedFile = None,
    judge: shared.Reader = "auto",
    settings: shared.Settings = None,
    backbone: shared.FittingCheckpoint = None,
    place: shared.Place = shared.anywhere,
    out: Annotated[Path | None, shared.run_folder("WORDS-SEED")] = None,
    resume: shared.Resume = False,
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
    sources while they denoise and learn no concept, so their folder holds none; the folder of a
    path holds a GIF, and an MP4 if ffmpeg is installed.

    Sources: DisTok, arXiv:2505.03667; CreTok, arXiv:2410.24160; ConceptLab, arXiv:2308.02669;
    MagicMix, arXiv:2210.16056; DiffMorpher, arXiv:2312.07409; BASS, arXiv:2310.01819; AGSwap (our
    reading), arXiv:2509.18699.
    """
    parts = [Path(word.rpartition("=")[0] or word).name for word in words]
    first = folder_name(" ".join(parts), seed)
    with at_work(out, first, place, resume=resume) as common:
        import offbeat
        from offbeat.core.templates import check_text
        from offbeat.errors import ConfigError
        from offbeat.files.pictures import is_picture
        from offbeat.verbs.walk import names_concept

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
        few = grid or all(is_picture(name) and not names_concept(name) for name in names)
        each = num_images or (1 if few else 3 if sweep else 8)
        check_num_images(each * (count if sweep else count * (count + 1) // 2 if grid else 1))
        common |= {
            "method": method,
            "config": settings_of(settings),
            "trained": trained,
            "prompt": prompt,
            "seed": seed,
            "judge": judge,
            "backbone": backbone,
            "num_images": each,
        }
        if sweep:
            run = offbeat.sweep(*names, num=count, **common)
        elif grid:
            run = offbeat.grid(*names, num=count, **common)
        else:
            run = offbeat.fuse(weights, **common)
    show_result(run.summary, common["out"] / "contact.png")
