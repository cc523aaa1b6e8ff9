"""Write the answers of a study as CSV, JSON or Parquet: one row for each answer that holds."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offbeat.errors import ConfigError, MissingExtraError
from offbeat.files.disk import json_bytes, write_atomic
from offbeat.study.design import Study
from offbeat.study.storage import KINDS, Storage, rows_of
from offbeat.verbs.score import harmless


def export_answers(study: Study, storage: Storage, file: Path) -> int:
    """Write all answers, of people, simulations and models; return how many there are.

    Raises:
        ConfigError: If the file's ending is not known.
        MissingExtraError: If Parquet is wanted and pyarrow is not installed.
        StoreError: If the file cannot be written.
    """
    rows = [row for kind in KINDS for row in rows_of(study, storage.raters(kind))]
    writers = {".csv": _csv, ".json": json_bytes, ".parquet": _parquet}
    writer = writers.get(file.suffix.lower())
    if writer is None:
        raise ConfigError(f"{file}: expected a name that ends in {', '.join(writers)}")
    write_atomic(file, writer(rows))
    return len(rows)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of plain values; what is a list becomes JSON text."""
    return {
        name: value if name in ("rater", "position", "seconds") else _as_text(value)
        for name, value in row.items()
    }


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return harmless(text)


def _csv(rows: list[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    flat = [_flat(row) for row in rows]
    lines = csv.DictWriter(text, list(flat[0]) if flat else ["rater"], lineterminator="\n")
    lines.writeheader()
    lines.writerows(flat)
    return text.getvalue().encode()


def _parquet(rows: list[Mapping[str, Any]]) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("Parquet", "study") from error
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([_flat(row) for row in rows]), file)
    return file.getvalue()
