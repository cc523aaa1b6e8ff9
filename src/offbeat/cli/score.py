"""``offbeat score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offbeat.cli import options as shared
from offbeat.cli.output import ProgressLine, errors_shown

if TYPE_CHECKING:
    from offbeat.verbs.score import ScoreTable


@shared.placing
def score(
    pictures: Annotated[
        list[str],
        typer.Argument(metavar="PICTURE...", help="Picture files, folders of them, run folders."),
    ],
    text: Annotated[
        str | None,
        typer.Option(help="What they should show; what each keeps inside if not given."),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A text for each picture, one a line."),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(metavar="FOLDER", help="Pictures to compare with. Several."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Names (`offbeat list metrics`), or `NAME=FOLDER` with weights of its own. What "
            "fits what is given if none is named.",
        ),
    ] = None,
    backbone: shared.Checkpoint = "pocket",
    judge: Annotated[
        str,
        typer.Option(
            help="Who is asked where a metric asks, as for `offbeat explore`; several as `A,B`."
        ),
    ] = "auto",
    each: Annotated[bool, typer.Option("--each", help="Show each picture's values.")] = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write everything as JSON."),
    ] = None,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write a line for each value as CSV."),
    ] = None,
    place: shared.Place = shared.anywhere,
) -> None:
    """Measure pictures, ours or any others.

    **Example**

    `offbeat score runs/handbag-0 --reference runs/handbag-0/ordinary`

    `offbeat score photo.jpg --text "a red handbag" --metrics clip_t,pickscore=models/PickScore_v1`
    """
    with errors_shown():
        import offbeat
        from offbeat.files.disk import json_bytes, write_atomic

        progress = ProgressLine()
        table = offbeat.score(
            pictures,
            text=_lines(texts, text) if texts else text,
            references=reference or None,
            metrics=metrics,
            backbone=backbone,
            judge=judge,
            device=place(),
            observe=progress,
        )
        progress.close()
        if json_file:
            write_atomic(json_file, json_bytes(table.as_json()))
        if csv_file:
            write_atomic(csv_file, table.to_csv().encode())
        _show(table, each=each)


def _lines(file: Path, text: str | None) -> list[str]:
    """Return the texts of a file.

    Raises:
        PromptError: If there is none, or a text for all is given, too.
    """
    from offbeat.errors import PromptError

    if text is not None:
        raise PromptError("--text, --texts: expected one of them, got both")
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise PromptError(f"{file}: expected a text for each picture, one a line, got none")
    return lines


PLAIN_WIDTH = 200
"""Columns of a table that goes to a file: no name is to be broken there."""


def _show(table: ScoreTable, *, each: bool) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    console.print(_means(table))
    for note in dict.fromkeys(scores.note for scores in table.scores if scores.note):
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False)
    if each:
        console.print(_values(table))


def _means(table: ScoreTable) -> Any:
    shown = _table("metric", "mean", "95 % interval", "n", "better", "checkpoint")
    for scores in table.scores:
        low, high = scores.interval
        interval = "" if low != low else f"{low:.4f} to {high:.4f}"  # NaN is no interval
        _add(shown, scores.name, f"{scores.mean:.4f}", interval, str(len(table.pictures)),
             scores.better, scores.checkpoint)  # fmt: skip
    return shown


def _values(table: ScoreTable) -> Any:
    columns = [scores for scores in table.scores if scores.per_image]
    shown = _table("picture", *(scores.name for scores in columns))
    for number, name in enumerate(table.pictures):
        _add(shown, name, *(f"{scores.values[number]:.4f}" for scores in columns))
    return shown


def _table(*titles: str) -> Any:
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False)
    for title in titles:
        shown.add_column(Text(title), overflow="fold")
    return shown


def _add(table: Any, *cells: str) -> None:
    from rich.text import Text

    table.add_row(*(Text(cell) for cell in cells))  # not as markup: names hold brackets
