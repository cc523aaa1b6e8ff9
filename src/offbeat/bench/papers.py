"""The papers' claims: tables of cells, computed once, saved, then tested.

A cell is one way on one item with one seed. It is a file under ``FOLDER/TABLE/WAY/``, with the
picture that it drew beside it, and is computed again only if something that it depends on changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from offbeat.bench.cells import TableRun
from offbeat.bench.results import SHEET, finish, page
from offbeat.bench.spec import Table, bundled, read_table
from offbeat.errors import ConfigError, OffbeatError
from offbeat.files.disk import write_atomic
from offbeat.scale.engine import open_engine
from offbeat.scale.worker import Worker


def run(
    tables: Sequence[str],
    out: Path,
    *,
    quick: bool = False,
    threads: int = 1,
    part: tuple[int, int] = (0, 1),
    workers: int | None = None,
    ray: str | None = None,
    backbone: str | None = None,
    tell: Callable[[str], None] = print,
) -> list[Path]:
    """Compute missing cells of tables; write ``results.json`` and a sheet for each.

    Args:
        tables: Names of bundled tables, or YAML files; none is all bundled ones.
        out: Folder of all cells.
        quick: Take the short form of each table.
        threads: CPU threads, of each worker.
        part: This process does items I of N; the last to end should be run once more as 0 of 1.
        workers: Processes that share the items; None is this one alone.
        ray: Address of a Ray cluster whose workers do, or ``auto``; ``out`` must be a folder that
            all of them see.
        backbone: Another checkpoint than the tables name.
        tell: Told each cell as it is done.

    Returns:
        The folders of the tables that are complete.

    Raises:
        ConfigError: If a table cannot be read, or asks for what is not there.
        OffbeatError: If a worker could not compute an item; all others are kept.
    """
    torch.set_num_threads(threads)
    opened = _Tables(out, quick, backbone)
    jobs = {name: opened.run(name) for name in bundled(tables)}
    if workers is None and ray is None:
        for job in jobs.values():
            job.compute(part, tell)
    else:
        _share(jobs, opened, workers, ray, threads, part, tell)
    done = [job for job in jobs.values() if job.is_complete()]
    for job in done:
        finish(job)
    return [job.out for job in done]


@dataclass(frozen=True, slots=True)
class _Tables:
    """Opens tables, and computes an item of one in whatever process it is called."""

    out: Path
    quick: bool
    backbone: str | None

    def run(self, name: str) -> TableRun:
        table = read_table(name, quick=self.quick)
        if self.backbone is not None:
            table = _on(table, self.backbone)
        return TableRun(table, self.out / (f"{table.name}-quick" if self.quick else table.name))

    def __call__(self, worker: Worker, item: tuple[str, int, int]) -> list[str]:
        """Compute one item of a table; return what there is to tell."""
        name, index, count = item
        if name not in worker.memory:
            worker.memory.clear()  # one table's judges and pictures at a time
            worker.memory[name] = self.run(name)
        lines: list[str] = []
        worker.memory[name].compute((index, count), lines.append)
        return lines


def _share(
    jobs: Mapping[str, TableRun],
    opened: _Tables,
    workers: int | None,
    ray: str | None,
    threads: int,
    part: tuple[int, int],
    tell: Callable[[str], None],
) -> None:
    """Let workers compute the items of all tables."""
    items = [
        (name, index, count)
        for name, count in ((name, job.num_items) for name, job in jobs.items())
        for index in range(count)
        if index % part[1] == part[0]
    ]
    engine, failed = open_engine(workers, threads=threads, ray=ray), []
    try:
        for outcome in engine.run(opened, items):
            if outcome.error:
                failed.append(f"{items[outcome.number][0]}: {outcome.error}")
            for line in (*(outcome.value or ()), *([failed[-1]] if outcome.error else ())):
                tell(line)
    finally:
        engine.close()
    if failed:
        raise OffbeatError(f"{len(failed)} of {len(items)} items failed; {failed[0]}")


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
