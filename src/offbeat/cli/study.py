"""``offbeat study``: blind studies with people, from the design to the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from offbeat.cli.output import ProgressLine, errors_shown

if TYPE_CHECKING:
    from offbeat.study.design import Study
    from offbeat.study.storage import Storage

app = typer.Typer(
    help="Ask people, blind: pairs, scales, rankings; then the statistics.", no_args_is_help=True
)
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The study's folder.")]
Database = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it at run time on Python 3.10
    typer.Option(
        envvar="OFFBEAT_STUDY_DATABASE",
        metavar="URL",
        help="Where answers are kept: `postgresql+psycopg://USER@HOST/NAME`. An SQLite file in "
        "FOLDER if not given.",
    ),
]
NEEDS = ("sqlalchemy", "alembic", "statsmodels", "pydantic", "fastapi", "uvicorn")


@app.command("new")
def new(
    file: Annotated[
        str, typer.Argument(help="The design, a YAML file; or the name of one that comes along.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the study.")] = Path("study"),
) -> None:
    """Make a study: copy its pictures under names that say nothing, and fix its design."""
    with errors_shown():
        _check_extra()
        from offbeat.study.design import create, read_design
        from offbeat.study.draw import draw

        design, base = read_design(file)
        study = create(design, out, base=base, draw=draw)
        typer.echo(
            f"{len(study.pictures)} pictures, {len(design.conditions)} conditions, "
            f"{len(design.items)} items; design {study.digest}"
        )
        typer.echo(f"Plan it:  offbeat study power {out}")
        typer.echo(f"Invite:   offbeat study invite {out} -n {design.raters}")
        typer.echo(f"Serve it: offbeat study serve {out}")


@app.command("power")
def power(
    folder: Folder,
    preference: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="True share that prefers the first.")
    ] = 0.6,
    wanted: Annotated[
        float, typer.Option("--power", min=0.05, max=0.99, help="How often it is to be found.")
    ] = 0.8,
    raters: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=2, help="Say the power of so many, instead of how many are needed."),
    ] = None,
    spread: Annotated[float, typer.Option(min=0, help="How far raters differ, logits.")] = 0.5,
    simulations: Annotated[int, typer.Option(min=10, help="Studies simulated each time.")] = 200,
) -> None:
    """Say how many raters find a preference, by simulated raters, before anyone is asked."""
    with errors_shown():
        study = _open(folder)
        from offbeat.study.simulate import power as power_of
        from offbeat.study.simulate import raters_needed

        how: dict[str, Any] = {"spread": spread, "num_simulations": simulations}
        if raters is not None:
            power, low, high = power_of(study, num_raters=raters, preference=preference, **how)
            typer.echo(
                f"{raters} raters, {study.design.trials} trials each: {power:.0%} of simulated "
                f"studies find {preference:.0%} ({low:.0%} to {high:.0%})"
            )
            return
        number, tried = raters_needed(study, preference=preference, wanted=wanted, **how)
        for count, share in tried:
            typer.echo(f"{count:5d} raters: found in {share:.0%} of simulated studies")
        typer.echo(f"{number} raters find {preference:.0%} in {wanted:.0%} of studies")


@app.command("invite")
def invite(
    folder: Folder,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10_000)] = 1,
    address: Annotated[
        str, typer.Option(help="How raters reach the server.")
    ] = "http://127.0.0.1:8189",
    database: Database = None,
) -> None:
    """Print links, each for one person; only their digests are kept, so save what is printed."""
    with _answers(folder, database) as (_, storage):
        for token in storage.invite(count):
            typer.echo(f"{address.rstrip('/')}/s/{token}")


@app.command("serve")
def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8189,
    allow_host: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="NAME", help="A host name of this server. Repeat for several."),
    ] = None,
    database: Database = None,
) -> None:
    """Serve the page for those who take part, until Ctrl-C."""
    with _answers(folder, database) as (study, storage):
        from offbeat.studio.server import free_port, run_app
        from offbeat.studio.study import create_app

        application = create_app(study, storage, host=host, names=tuple(allow_host or ()))
        chosen = port or free_port(host)
        run_app(
            application, host=host, port=chosen,
            tell=lambda address: typer.echo(f"Offbeat study: {address}"),
        )  # fmt: skip


@app.command("simulate")
def simulate(
    folder: Folder,
    strength: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="CONDITION=LOGITS", help="How strong a condition is; 0 if not given."),
    ] = None,
    raters: Annotated[int, typer.Option(min=1, max=2000)] = 20,
    careless: Annotated[float, typer.Option(min=0, max=1, help="Share who answer anything.")] = 0.0,
    left: Annotated[float, typer.Option(help="How much the left place helps, logits.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    database: Database = None,
) -> None:
    """Store answers of simulated raters, to try the analysis; they are never counted as people."""
    with _answers(folder, database) as (study, storage):
        from offbeat.study.simulate import Crowd, store_simulated

        crowd = Crowd(
            strengths=_strengths(study, strength or []), careless=careless, left=left, spread=0.5,
            ties=0.3 if study.design.ties else 0.0,
        )  # fmt: skip
        store_simulated(study, storage, crowd, raters, seed=seed)
        typer.echo(f"{raters} simulated raters answered; see: offbeat study analyse {folder}")


@app.command("ask")
def ask(
    folder: Folder,
    judge: Annotated[str, typer.Option(help="A vision model: `api:MODEL@ADDRESS`.")],
    database: Database = None,
) -> None:
    """Let a vision model take part, in a column of its own."""
    with _answers(folder, database) as (study, storage):
        from offbeat.judges.api import ApiJudge
        from offbeat.study.models import rate_with

        progress = ProgressLine()
        model = ApiJudge.load(judge.removeprefix("api:"))
        rate_with(
            study, storage, model,
            on_answer=lambda done, total: progress("answers", done, total, {}),
        )  # fmt: skip
        progress.close()
        typer.echo(f"{model.name} has answered; see: offbeat study analyse {folder}")


@app.command("analyse")
def analyse(
    folder: Folder,
    metric: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A metric of `offbeat score` to hold against people. Several."),
    ] = None,
    database: Database = None,
) -> None:
    """Analyse the answers by the design's plan, and write `report.html` and `analysis.json`."""
    with _answers(folder, database) as (study, storage):
        from offbeat.study.analyse import analyse as analysis_of
        from offbeat.study.metrics import stand_ins
        from offbeat.study.report import TITLES, write_report
        from offbeat.study.storage import KINDS

        groups = {kind: storage.raters(kind) for kind in KINDS}
        analyses = [analysis_of(study, raters) for raters in groups.values() if any(
            rater.given for rater in raters
        )]  # fmt: skip
        if not analyses:
            typer.echo("no answers yet")
            raise typer.Exit(1)
        held = stand_ins(study, groups["person"], metric) if metric else []
        write_report(study, analyses, held)
        for each in analyses:
            typer.echo(f"{TITLES[each.kind]}: {each.num_answers} answers of {each.num_analysed}")
            for row in each.comparisons:
                typer.echo(
                    f"  {row.first} over {row.second}: {row.estimate:.3f} "
                    f"({row.low:.3f} to {row.high:.3f}), p = {row.p_holm:.4f}: {row.verdict}"
                )
        for found in held:
            typer.echo(f"  {found.name}: AUC {found.auc:.3f} ({found.low:.3f} to {found.high:.3f})")
        typer.echo(str(folder / "report.html"))


@app.command("taste")
def taste(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("taste.safetensors"),
    kind: Annotated[str, typer.Option(help="Whose: `person`, `simulation` or `model`.")] = "person",
    database: Database = None,
) -> None:
    """Write what was preferred to what, for `offbeat explore --taste FILE`."""
    with _answers(folder, database) as (study, storage):
        from offbeat.errors import ConfigError
        from offbeat.study.storage import KINDS
        from offbeat.study.taste import preferences_of

        if kind not in KINDS:
            raise ConfigError(f"--kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        preferences = preferences_of(study, storage.raters(kind))
        preferences.save(out)
        typer.echo(f"{len(preferences.winners)} preferences in {out}")


@app.command("export")
def export(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="Ends in .csv, .json or .parquet.")],
    database: Database = None,
) -> None:
    """Write every answer as one row; no address, no name, no browser."""
    with _answers(folder, database) as (study, storage):
        from offbeat.study.export import export_answers

        typer.echo(f"{export_answers(study, storage, file)} answers in {file}")


@app.command("forget")
def forget(
    folder: Folder,
    rater: Annotated[int, typer.Argument(help="The rater's number, as `export` shows it.")],
    database: Database = None,
) -> None:
    """Delete one person and all that the person answered."""
    with _answers(folder, database) as (_, storage):
        storage.forget(rater)
        typer.echo(f"rater {rater} and all answers of theirs are deleted")


def _check_extra() -> None:
    from offbeat.errors import MissingExtraError

    if any(find_spec(name) is None for name in NEEDS):
        raise MissingExtraError("a study", "study")


def _open(folder: Path) -> Study:
    _check_extra()
    from offbeat.study.design import open_study

    return open_study(folder)


@contextmanager
def _answers(folder: Path, database: str | None) -> Iterator[tuple[Study, Storage]]:
    """Open a study and its database, show errors in one line, and close the database."""
    with errors_shown():
        study = _open(folder)
        from offbeat.study.informative import order_of
        from offbeat.study.storage import Storage

        storage = Storage(study, database, next_trials=order_of(study))
        try:
            yield study, storage
        finally:
            storage.close()


def _strengths(study: Study, given: list[str]) -> dict[str, float]:
    from offbeat.errors import ConfigError

    strengths = dict.fromkeys(study.design.conditions, 0.0)
    for text in given:
        name, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if name not in strengths or not abs(number) <= 20:
            raise ConfigError(
                f"--strength: expected CONDITION=LOGITS with one of {', '.join(strengths)} and a "
                f"number from -20 to 20, got {text!r}"
            )
        strengths[name] = number
    return strengths
