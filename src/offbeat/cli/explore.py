"""``offbeat explore``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from offbeat.cli import options as shared
from offbeat.cli.output import at_work, folder_name, settings_of, show_result

Space = Literal["subject", "adjective", "lora", "token+lora", "direct"]

ask = partial(typer.Option, rich_help_panel="What to draw")
search = partial(typer.Option, rich_help_panel="How to search")
distance = partial(typer.Option, rich_help_panel="How far, and away from what")
ablation = partial(typer.Option, rich_help_panel="Ablations of the paper")


@shared.placing
def explore(
    subject: Annotated[
        str, typer.Argument(metavar="SUBJECT", help="What to draw; one word is best: `handbag`.")
    ],
    method: Annotated[
        str,
        typer.Option(
            help="`low-probability` searches. The simple rivals only draw: `raw-prompt`, "
            "`high-guidance`, `seed-variance`, `best-of-n`, `cads`, `guidance-interval`, "
            "`adaptive-negatives`, or a plug-in; they take no option of the search."
        ),
    ] = "low-probability",
    novelty: Annotated[
        float | None,
        distance(
            help="How many times as different as another ordinary picture they are to look, to an "
            "encoder that the search does not use; 1 is just another one. **2** if neither this, "
            "`--quantile`, `--reach` nor `--steps` is given. Below 1 it is read as `--quantile`."
        ),
    ] = None,
    quantile: Annotated[
        float | None,
        distance(
            help="Instead: hold the distance that contains this share of a Gaussian fitted to "
            "ordinary samples, inside (0, 1)."
        ),
    ] = None,
    reach: Annotated[
        float | None,
        distance(
            help="Instead: hold this many times the distance of an ordinary embedding. 1 is "
            "ordinary; 2 is farther than any quantile can express."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        distance(
            min=1,
            help="Steps at most; by default 200, or 40 generations of cma-es. Given without a "
            "distance, the search moves away as published, limited only by anchor and judge.",
        ),
    ] = None,
    avoid: Annotated[
        list[str] | None,
        distance(
            metavar="RUN[:STATE]",
            help="Keep away from what that run drew. STATE is a kept step of its best search, or "
            "of another: 2.30 is step 30 of search 2, 2.end its end. Repeatable.",
        ),
    ] = None,
    unlike: Annotated[
        list[Path] | None,
        distance(metavar="FOLDER", help="Keep away from your own pictures. Repeatable."),
    ] = None,
    taste: Annotated[
        Path | None,
        search(
            metavar="FILE",
            help="Choose what fits these preferences: a file of `offbeat study taste`.",
        ),
    ] = None,
    num_images: Annotated[
        int,
        ask("--num-images", "-n", min=1, help="Pictures of each direction."),
    ] = 8,
    template: Annotated[
        str | None,
        ask(help="Prompt with `{subject}`; by default the checkpoint's own."),
    ] = None,
    seed: Annotated[int, ask(min=0, help="Same seed, same pictures.")] = 0,
    directions: Annotated[
        int | None,
        search(
            min=1,
            help="Searches that keep away from each other, each with pictures of its own; by "
            "default 4.",
        ),
    ] = None,
    candidates: Annotated[
        int,
        search(
            min=1,
            help="Draw this many times as many pictures, and show those that the judge passes and "
            "that differ most; 1 shows all.",
        ),
    ] = 3,
    trials: Annotated[
        int,
        search(
            min=1,
            help="Searches for each direction; the best is kept, by validity, then by novelty.",
        ),
    ] = 1,
    space: Annotated[
        Space | None,
        search(
            help="What is learned: the subject's token, the token of `creative` before it, LoRA "
            "factors of the prior, token and factors (the default), or the embedding itself."
        ),
    ] = None,
    judge: Annotated[
        str,
        search(
            metavar="JUDGE",
            help="Who checks that the pictures still show the subject: `auto`, `none`, `clip`, "
            "`classifier`, a vision-language model (`offbeat list judges`), a model's folder or "
            "hub id, or a server's model as `api:MODEL@ADDRESS`.",
        ),
    ] = "auto",
    density: Annotated[
        Literal["gaussian", "kde"] | None,
        search(help="Model of the ordinary; by default `gaussian`."),
    ] = None,
    baseline: Annotated[
        int | None,
        search(min=2, help="Ordinary samples to fit; by default 5000."),
    ] = None,
    components: Annotated[
        int | None,
        search(
            "--axes",
            "--components",
            min=1,
            help="PCA axes that distances are measured in; by default those that hold 80 % of the "
            "variance (8 for kde). The paper takes 50.",
        ),
    ] = None,
    anchor: Annotated[
        bool,
        ablation("--anchor/--no-anchor", help="Pull back to the text."),
    ] = True,
    rule: Annotated[
        Literal["alternate", "sum"] | None,
        ablation(help="One loss in each step (`alternate`, the default), or their sum."),
    ] = None,
    settings: shared.Settings = None,
    backbone: shared.FittingCheckpoint = None,
    place: shared.Place = shared.anywhere,
    out: Annotated[Path | None, shared.run_folder("SUBJECT-SEED")] = None,
    resume: shared.Resume = False,
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
    searches = method == "low-probability"
    first = folder_name(subject, seed)
    with at_work(out, first, place, num_images=num_images, resume=resume) as common:
        import offbeat
        from offbeat.errors import ConfigError
        from offbeat.verbs.explore_plan import refusal

        options = {
            "density": density,
            "num_baseline": baseline,
            "num_components": components,
            "use_anchor": None if anchor else False,
            "rule": rule,
        }
        far = {"novelty": novelty, "quantile": quantile, "directions": directions}
        given = {name: value for name, value in options.items() if value is not None}
        steered = [*given, *(name for name, value in far.items() if value is not None)]
        if steered and not searches:
            raise ConfigError(refusal(steered, method))
        config = settings_of(settings)
        if searches and (twice := config.keys() & {*options, *far, "reach", "num_steps", "space"}):
            raise ConfigError(f"--set: {', '.join(sorted(twice))} has an option of its own")
        run = offbeat.explore(
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
            taste=taste,
            preview_every=25 if searches else 0,
            prompt=template,
            judge=judge,
            config={**given, **config},
            backbone=backbone,
            **common,
        )
    folder = common["out"]
    show_result(run.summary, folder / "contact.png", folder / "report.html")
