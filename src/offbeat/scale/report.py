"""What a sweep shows at its end: a table, a contact sheet by its axes, and one page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbeat.errors import StoreError
from offbeat.files.disk import explained
from offbeat.runs.report import page, picture_html, section, table_html
from offbeat.runs.sheet import contact_sheet, png_of
from offbeat.scale.plan import Plan
from offbeat.scale.store import RUNS, Results, Store
from offbeat.verbs.score import harmless

if TYPE_CHECKING:
    from PIL import Image

TABLE, PARQUET, SHEET, REPORT = "table.csv", "table.parquet", "contact.png", "report.html"
MAX_ROWS, MAX_COLUMNS = 12, 8
"""Of the contact sheet."""
MAX_SHOWN = 500
"""Rows of the table on the page; the CSV has all."""
COLUMNS = ("number", "state", "folder", "key", "seconds", "evaluations", "worker", "error")


def write_report(plan: Plan, store: Store, results: Results, lead: str) -> None:
    """Write the table, the sheet and the page of a sweep; rows are read one by one.

    Raises:
        StoreError: If they cannot be written.
    """
    columns = _columns(results)
    try:
        with open(store.here / TABLE, "w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(columns)
            lines.writerows([_cell(row.get(name)) for name in columns] for row in _flat(results))
    except OSError as error:
        raise explained("written", store.here / TABLE, error) from error
    _parquet(store.here / TABLE, store.here / PARQUET)
    sheet = sheet_of(plan, store)
    if sheet is not None:
        store.write(SHEET, sheet)
    shown = [[_cell(row.get(c)) for c in columns] for row in islice(_flat(results), MAX_SHOWN)]
    sections = [
        section(
            "By its axes", picture_html(sheet, "The first picture of each task") if sheet else ""
        ),
        section("Tasks", table_html(columns, shown)),
    ]
    store.write(REPORT, page(plan.title or f"A sweep of {plan.verb}", lead, sections).encode())
    for name in (TABLE, PARQUET):
        if store.is_address and (store.here / name).exists():
            store.write(name, (store.here / name).read_bytes())


def _flat(rows: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    for row in rows:
        flat = {name: value for name, value in row.items() if name not in ("axes", "facts")}
        yield {**row["facts"], **row["axes"], **flat}


def _columns(results: Results) -> list[str]:
    names: dict[str, None] = {}
    facts: dict[str, None] = {}
    for row in results:
        names |= dict.fromkeys(row["axes"])
        facts |= dict.fromkeys(row["facts"])
    return list(dict.fromkeys([*COLUMNS[:2], *names, *facts, *COLUMNS[2:]]))


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return harmless(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _parquet(table: Path, file: Path) -> None:
    """Write a CSV as Parquet, a block at a time, where pyarrow is installed."""
    try:
        from pyarrow import ArrowInvalid, parquet
        from pyarrow import csv as arrow
    except ImportError:
        return
    try:
        with arrow.open_csv(table) as blocks, parquet.ParquetWriter(file, blocks.schema) as writer:
            for block in blocks:
                writer.write_batch(block)
    except ArrowInvalid:  # a column changes its type after the first block: all at once, as it is
        parquet.write_table(arrow.read_csv(table), file)
    except OSError as error:
        raise explained("written", file, error) from error


def sheet_of(plan: Plan, store: Store) -> bytes | None:
    """Return the first picture of each task: one axis down, one across, of the others the first.

    None if there is no picture.
    """
    names = sorted(plan.axes, key=lambda name: (name == "seed", -len(plan.axes[name])))
    down = names[0] if names else None
    across = names[1] if len(names) > 1 else None
    rows, count = [], MAX_COLUMNS
    heights = range(min(MAX_ROWS, len(plan.axes[down]))) if down else range(1)
    for high in heights:
        label = f"{down}: {plan.axes[down][high]}" if down else ""
        if across:
            places = [
                plan.place({str(down): high, across: wide})
                for wide in range(min(count, len(plan.axes[across])))
            ]
        else:
            places = [
                plan.place({down: high} if down else {}, inner)
                for inner in range(min(count, len(plan.entries) * plan.num_draws))
            ]
        rows.append((label, [_first_picture(store, plan.task(n).folder) for n in places]))
    pictures = [picture for _, row in rows for picture in row if picture is not None]
    if not pictures:
        return None
    blank = pictures[0].copy()
    blank.paste((200, 200, 200), (0, 0, *blank.size))
    captions = [f"{across}: {value}" for value in list(plan.axes[across])[:count]] if across else ()
    title = plan.title or f"A sweep of {plan.verb}: the first picture of each task"
    filled = [(label, [picture or blank for picture in row]) for label, row in rows]
    return png_of(contact_sheet(filled, captions=captions, title=title, max_columns=count))


def _first_picture(store: Store, folder: str) -> Image.Image | None:
    from PIL import Image

    name = f"{RUNS}/{folder}/images/0000.png"
    try:
        return Image.open(io.BytesIO(store.read(name))).convert("RGB")
    except (StoreError, OSError):
        return None
