"""``offbeat explore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from offbeat.cli.options import Place, Settings, anywhere, placing
from offbeat.cli.output import (
    check_num_images,
    errors_shown,
    folder_for,
    resumable,
    settings_of,
    show_result,
)

Space = Literal["subject", "adjective", "lora", "token+lora", "direct"]

ASK, FIND, FAR, ABLATE = (
    "What to draw",
    "How to search",
    "How far, and away from what",
    "Ablations of the paper",
)


@placing
def explore(
    subject: Annotated[
        str, typer.Argument(metavar="SUBJECT", help="What to draw; one word is best: `handbag`.")
    ],
    method: Annotated[
        str,
        typer.Option(
            help="`low-probability` searches. Simple rivals draw: `raw-prompt`, `high-guidance`, "
            "`seed-variance`, `best-of-n`, `cads`, `guidance-interval`, `adaptive-negatives`, or a "
            "plug-in; they take no option of the search."
        ),
    ] = "low-probability",
    novelty: Annotated[
        Optional[float],  # noqa: UP045 - typer reads it at run time on Python 3.10
        typer.Option(
            help="How many times as different as another ordinary picture they shall look, to an "
            "encoder that the search does not use; 1 is just another one. **2** if neither this, "
            "`--quantile`, `--reach` nor `--steps` is given. Below 1 it is read as `--quantile`.",
            rich_help_panel=FAR,
        ),
    ] = None,
    quantile: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="Or: hold the distance that this share of a Gaussian fitted to ordinary samples "
            "lies within, inside (0, 1).",
            rich_help_panel=FAR,
        ),
    ] = None,
    reach: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="Or: hold so many times the distance of an ordinary embedding. 1 is ordinary; "
            "2 is beyond what any quantile can say.",
            rich_help_panel=FAR,
        ),
    ] = None,
    steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            help="Optimizer steps at most: 200 with a distance, if not given. Alone, without a "
            "distance: run away as published, held back only by the anchor and the judge.",
            rich_help_panel=FAR,
        ),
    ] = None,
    avoid: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="RUN[:STEP]",
            help="Keep away from what that run drew, or drew at one of its kept steps. Several.",
            rich_help_panel=FAR,
        ),
    ] = None,
    unlike: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(
            metavar="FOLDER",
            help="Keep away from your own pictures. Several.",
            rich_help_panel=FAR,
        ),
    ] = None,
    num_images: Annotated[
        int,
        typer.Option(
            "--num-images", "-n", min=1, help="Pictures of each direction.", rich_help_panel=ASK
        ),
    ] = 8,
    template: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Prompt with `{subject}`; the checkpoint's own if not given.",
            rich_help_panel=ASK,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Same seed, same pictures.", rich_help_panel=ASK)
    ] = 0,
    directions: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            help="Searches that keep away from each other, each with pictures of its own: **4** "
            "if not given.",
            rich_help_panel=FIND,
        ),
    ] = None,
    candidates: Annotated[
        int,
        typer.Option(
            min=1,
            help="Draw so many times as many pictures, and show those that the judge passes and "
            "that differ most; 1 chooses none.",
            rich_help_panel=FIND,
        ),
    ] = 3,
    trials: Annotated[
        int,
        typer.Option(
            min=1,
            help="Searches for each direction; the best is kept, by validity, then by novelty.",
            rich_help_panel=FIND,
        ),
    ] = 1,
    space: Annotated[
        Optional[Space],  # noqa: UP045
        typer.Option(
            help="What is learned: the subject's token, the token of `creative` before it, LoRA "
            "factors of the prior, token and factors (if not given), or the embedding itself.",
            rich_help_panel=FIND,
        ),
    ] = None,
    judge: Annotated[
        str,
        typer.Option(
            metavar="JUDGE",
            help="Who is asked whether it is still the subject: `auto`, `none`, `clip`, "
            "`classifier`, a vision-language model (`offbeat list judges`), a model's folder or "
            "hub id, or a server's model as `api:MODEL@ADDRESS`.",
            rich_help_panel=FIND,
        ),
    ] = "auto",
    density: Annotated[
        Optional[Literal["gaussian", "kde"]],  # noqa: UP045
        typer.Option(help="Model of the ordinary: `gaussian` if not given.", rich_help_panel=FIND),
    ] = None,
    baseline: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=2, help="Ordinary samples to fit: 5000 if not given.", rich_help_panel=FIND
        ),
    ] = None,
    components: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--axes",
            "--components",
            min=1,
            help="PCA axes that distances are measured in, the paper's are 50; those that hold "
            "80 % of the variance (8 for kde) if not given.",
            rich_help_panel=FIND,
        ),
    ] = None,
    anchor: Annotated[
        bool,
        typer.Option("--anchor/--no-anchor", help="Pull back.", rich_help_panel=ABLATE),
    ] = True,
    rule: Annotated[
        Optional[Literal["alternate", "sum"]],  # noqa: UP045
        typer.Option(
            help="One loss a step (`alternate`, if not given), or their sum.",
            rich_help_panel=ABLATE,
        ),
    ] = None,
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
        typer.Option(help="Run folder; `runs/SUBJECT-SEED` and a number if not given."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run in `--out`, or the newest `runs/SUBJECT-SEED`."
        ),
    ] = False,
) -> None:
    """Find unusual pictures of SUBJECT that are still a SUBJECT.

    The model first draws 5,000 ordinary samples and fits what is ordinary about them. Then it
    learns a word, and a small change of itself, that draw the same thing from far outside that
    distribution. Two forces pull back: the text, and a judge that looks at the pictures.

    **Examples**

    `offbeat explore handbag` finds four directions, with eight pictures of each.

    `offbeat explore castle --novelty 3 --directions 2 -n 16` goes farther, in two directions.

    `offbeat explore chair --avoid runs/chair-0 --unlike my-chairs/` goes elsewhere than before.

    The run folder then holds `contact.png`, `map.png`, `curve.png`, `report.html`, the pictures,
    and what was learned, for `offbeat render` and for diffusers.

    `offbeat explore handbag --method best-of-n --set num=16` is a simple rival, to compare with.

    Source: Song and Elgammal, arXiv:2601.22125; those of the rivals are in `docs/rivals.md`.
    """
    with errors_shown():
        check_num_images(num_images)
        import offbeat
        from offbeat.core.templates import check_text
        from offbeat.errors import ConfigError

        check_text("subject", subject)
        searches = method == "low-probability"
        flags = {
            "density": density,
            "num_baseline": baseline,
            "num_components": components,
            "use_anchor": None if anchor else False,
            "rule": rule,
        }
        far = {"novelty": novelty, "quantile": quantile, "directions": directions}
        given = {name: value for name, value in flags.items() if value is not None}
        steered = [*given, *(name for name, value in far.items() if value is not None)]
        if steered and not searches:
            raise ConfigError(
                f"{', '.join(steered)}: only for the search of low-probability, and {method} draws "
                "without one; leave it out"
            )
        own = settings_of(settings)
        if searches and (twice := own.keys() & {*flags, *far, "reach", "num_steps", "space"}):
            raise ConfigError(f"--set: {', '.join(sorted(twice))} has an option of its own")
        config = {**given, **own}
        folder = out or folder_for(subject, seed, resume=resume)
        with resumable(folder) as progress:
            result = offbeat.explore(
                subject,
                method=method,
                novelty=novelty,
                quantile=quantile,
                reach=reach,
                num_steps=steps,
                space=space,
                num_images=num_images,
                seed=seed,
                directions=directions or 4,
                candidates=candidates,
                num_trials=trials,
                avoid=tuple(avoid or ()),
                unlike=tuple(unlike or ()),
                preview_every=25 if searches else 0,
                prompt=template,
                judge=judge,
                config=config,
                backbone=backbone,
                device=place(),
                out=folder,
                resume=resume,
                observe=progress,
            )
    show_result(result.summary, folder / "contact.png", folder / "report.html")
