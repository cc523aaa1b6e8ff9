"""Where a sweep is kept: a folder that all workers see, or an address of fsspec (``s3://...``).

plan.json           what was asked
runs/NAME-KEY/      one run folder a task
results.jsonl       one row for each task that ended, as it ended
table.csv table.parquet contact.png report.html summary.json    at the end
"""

from __future__ import annotations

import json
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from offbeat.errors import ConfigError, StoreError
from offbeat.files.cache import cache_folder
from offbeat.files.disk import (
    append_line,
    digest_of,
    explained,
    json_bytes,
    make_folder,
    read_json,
    write_atomic,
)
from offbeat.runs.folder import DONE
from offbeat.scale.worker import LostFolderError

PLAN, RESULTS, RUNS = "plan.json", "results.jsonl", "runs"


class Store:
    """The place of one sweep.

    At an address, a run is made in a folder of this machine and copied when it is whole, its
    ``done.json`` last: what has one is complete. A half-finished run goes on only in a folder.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = str(out)
        self.is_address = "://" in self.out
        if self.is_address:
            import fsspec

            try:
                self._fs, self._root = fsspec.core.url_to_fs(self.out)
            except (ImportError, ValueError) as error:
                raise ConfigError(f"out: {self.out} cannot be used ({error})") from error
            self.here = cache_folder() / "sweeps" / digest_of(self.out.encode())
        else:
            self.here = Path(self.out)

    def check(self) -> None:
        """Raise if the folder is not there: it was removed, or is not mounted on this machine.

        Raises:
            LostFolderError: With what to do.
        """
        if not self.exists(PLAN):
            raise LostFolderError(
                f"{self.out}: the folder of the sweep is not there: it was removed, or this "
                "machine does not have it mounted; bring it back, and go on with --resume"
            )

    def exists(self, name: str) -> bool:
        """Return whether there is a file."""
        if self.is_address:
            return bool(self._fs.exists(f"{self._root}/{name}"))
        return (self.here / name).is_file()

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            StoreError: If it cannot be read.
        """
        try:
            if self.is_address:
                return bytes(self._fs.cat_file(f"{self._root}/{name}"))
            return (self.here / name).read_bytes()
        except OSError as error:
            raise explained("read", Path(self.out) / name, error) from error

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            StoreError: If it cannot be written.
        """
        make_folder((self.here / name).parent)
        write_atomic(self.here / name, data)
        if self.is_address:
            self._copied(name)

    def finished(self, folder: str) -> bool:
        """Return whether a task's run is complete."""
        return self.exists(f"{RUNS}/{folder}/{DONE}")

    def run_folder(self, folder: str) -> Path:
        """Return where a worker makes a task's run."""
        if self.is_address:
            return Path(tempfile.gettempdir()) / f"offbeat-{digest_of(self.out.encode())}" / folder
        return self.here / RUNS / folder

    def deliver(self, folder: str) -> None:
        """Copy a finished run to an address, its ``done.json`` last; nothing for a folder."""
        if not self.is_address:
            return
        made = self.run_folder(folder)
        files = [file for file in made.rglob("*") if file.is_file() and file.name != DONE]
        try:
            for file in (*files, made / DONE):
                target = f"{self._root}/{RUNS}/{folder}/{file.relative_to(made).as_posix()}"
                self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._fs.put_file(str(file), target)
        except OSError as error:
            raise explained("written", Path(self.out) / folder, error) from error
        shutil.rmtree(made, ignore_errors=True)

    def _copied(self, name: str) -> None:
        try:
            self._fs.makedirs(self._root, exist_ok=True)
            self._fs.put_file(str(self.here / name), f"{self._root}/{name}")
        except OSError as error:
            raise explained("written", Path(self.out) / name, error) from error

    def begin(self, plan: Mapping[str, Any], *, resume: bool) -> None:
        """Make the folder, or reopen it.

        Raises:
            StoreError: If it holds a sweep and ``resume`` is off, or files of another kind.
        """
        data = json_bytes({"schema_version": 1, **plan})
        if self.exists(PLAN):
            if not resume:
                raise StoreError(
                    f"{self.out}: holds a sweep; add --resume to go on with it, or choose another "
                    "--out"
                )
        elif not self.is_address and self.here.exists() and any(self.here.iterdir()):
            raise StoreError(f"{self.out}: holds files and no sweep; choose another --out")
        self.write(PLAN, data)  # a plan that has grown is fine: each task has a key of its own


class Results:
    """One row for each task that ended, in the order of the plan; a later row replaces one.

    In memory there are eight bytes for each task; the rows are on disk.
    """

    def __init__(self, store: Store, num_tasks: int) -> None:
        self._file = store.here / RESULTS
        make_folder(store.here)
        self._places = array("q", [-1]) * num_tasks
        self._old: dict[str, int] = {}
        if self._file.exists():
            with open(self._file, "rb") as file:
                place = 0
                for line in file:
                    if line.endswith(b"\n"):  # a kill may have cut the last one
                        self._old[str(json.loads(line)["key"])] = place
                    place += len(line)

    def recall(self, number: int, key: str) -> bool:
        """Take over the row that an earlier driver wrote of a task; return whether there is one."""
        self._places[number] = self._old.pop(key, -1)
        return self._places[number] >= 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row.

        Raises:
            StoreError: If the disk is full; the row is taken back.
        """
        self._places[int(row["number"])] = append_line(self._file, row)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the rows in the order of the plan."""
        if not self._file.exists():
            return
        with open(self._file, "rb") as file:
            for number, place in enumerate(self._places):
                if place >= 0:
                    file.seek(place)
                    yield {**json.loads(file.readline()), "number": number}


def facts_of(store: Store, folder: str) -> dict[str, Any]:
    """Return what a finished run found that fits in a table: numbers and short texts."""
    name = f"{RUNS}/{folder}/summary.json"
    if store.is_address:
        values = json.loads(store.read(name)) if store.exists(name) else {}
    else:
        path = store.here / name
        values = read_json(path) if path.exists() else {}
    kinds = (bool, int, float, str)
    return {k: v for k, v in values.items() if isinstance(v, kinds) and len(str(v)) <= 200}
