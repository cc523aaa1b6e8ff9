"""The papers' claims: tables of cells, computed once, saved, then tested.

A cell is one way on one item with one seed. It is a file under ``FOLDER/TABLE/WAY/``, with the
picture that it drew beside it, and is computed again only if something that it depends on changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from offbeat.bench.cells import TableRun
from offbeat.bench.results import SHEET, finish, page
from offbeat.bench.spec import Table, bundled, read_table
from offbeat.errors import ConfigError
from offbeat.files.disk import write_atomic


def run(
    tables: Sequence[str],
    out: Path,
    *,
    quick: bool = False,
    threads: int = 1,
    part: tuple[int, int] = (0, 1),
    backbone: str | None = None,
    tell: Callable[[str], None] = print,
) -> list[Path]:
    """Compute missing cells of tables; write ``results.json`` and a sheet for each.

    Args:
        tables: Names of bundled tables, or YAML files; none is all bundled ones.
        out: Folder of all cells.
        quick: Take the short form of each table.
        threads: CPU threads.
        part: This process does cells I of N; the last to end should be run once more as 0 of 1.
        backbone: Another checkpoint than the tables name.
        tell: Told each cell as it is done.

    Returns:
        The folders of the tables that are complete.

    Raises:
        ConfigError: If a table cannot be read, or asks for what is not there.
    """
    torch.set_num_threads(threads)
    done = []
    for name in bundled(tables):
        table = read_table(name, quick=quick)
        if backbone is not None:
            table = _on(table, backbone)
        job = TableRun(table, out / (f"{table.name}-quick" if quick else table.name))
        if job.compute(part, tell):
            finish(job)
            done.append(job.out)
    return done


def part_of(text: str) -> tuple[int, int]:
    """Return the two numbers of ``I/N``.

    >>> part_of("1/2")
    (1, 2)

    Raises:
        ConfigError: If it is no part.
    """
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ConfigError(f"part: expected I/N with I below N, such as 0/2, got {text!r}")
    return int(index), int(count)


def write_report(folders: Sequence[Path], file: Path) -> None:
    """Write finished tables as one page, with their sheets in a folder of its name."""
    sheets = file.with_suffix("")
    sheets.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        if (folder / SHEET).exists():
            write_atomic(sheets / f"{folder.name}.png", (folder / SHEET).read_bytes())
    write_atomic(file, page(folders, sheets.name).encode())


def _on(table: Table, backbone: str) -> Table:
    ways = {name: replace(way, backbone="") for name, way in table.ways.items()}
    return replace(table, backbone=backbone, ways=ways)
