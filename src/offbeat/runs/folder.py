"""Run folders: written atomically, checked on reading.

A file appears under its final name complete or not at all, so a run killed at any moment leaves a
folder that opens and goes on.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from offbeat.errors import CorruptRunError, ResumeError, StoreError
from offbeat.files.disk import (
    TEMP_PREFIX,
    FolderLock,
    append_line,
    digest_of,
    explained,
    flatten,
    json_bytes,
    make_folder,
    pack_tensors,
    parse_json,
    plain,
    read_json,
    unflatten,
    unpack_tensors,
    write_atomic,
)

SCHEMA_VERSION = 1
"""Of the run folder; a folder with a higher one is not read."""
ADDED_LATER = ("device", "dtype")
"""What requests of earlier releases do not say: a run that lacks it may still be resumed."""

REQUEST, TRACE, DONE = "request.json", "trace.jsonl", "done.json"
CHECKPOINT = "checkpoint/state.safetensors"


class RunFolder:
    """One run on disk: what was asked, each step, what was learned, what was drawn."""

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self.path = path
        self.request = dict(request)
        """What was asked, as JSON gives it back, without the schema version."""
        self._lock: FolderLock | None = None

    @classmethod
    def create(
        cls, path: str | Path, request: Mapping[str, Any], *, resume: bool = False
    ) -> RunFolder:
        """Make a run folder, or reopen the one of an equal request.

        Raises:
            ResumeError: If the folder holds a run of other settings.
            StoreError: If it holds a run and ``resume`` is off, or files of another kind, or
                cannot be written, or another process works on it. Nothing in it is touched.
            CorruptRunError: If the run in it is damaged.
        """
        path, wanted = Path(path), plain(request)
        if not _is_folder(path) and path.exists():
            raise StoreError(f"{path}: expected a folder, got a file; choose another --out")
        names = _names(path)
        if REQUEST in names:
            return cls._reopen(path, wanted, resume=resume)
        if any(not _is_temp(name) for name in names):
            raise StoreError(
                f"{path}: the folder holds files and no run; nothing was touched. "
                "Choose an empty or new folder with --out."
            )
        data = json_bytes({"schema_version": SCHEMA_VERSION, **wanted})
        make_folder(path)
        run = cls(path, wanted)
        run._lock = FolderLock.take(path)
        write_atomic(path / REQUEST, data)
        run._sweep()
        return run

    @classmethod
    def _reopen(cls, path: Path, wanted: Any, *, resume: bool) -> RunFolder:
        run = cls.open(path)
        old = set(ADDED_LATER) - run.request.keys()
        known = {key: value for key, value in wanted.items() if key not in old}
        differences = _differences(known, run.request)
        if differences:
            raise ResumeError(
                f"{path}: the run was started with other settings: {'; '.join(differences)}. "
                "Use the settings it was started with, or another --out."
            )
        if not resume:
            state = "a finished" if run.is_finished else "an unfinished"
            raise StoreError(
                f"{path}: holds {state} run of these settings; add --resume to go on with it, "
                "or choose another --out"
            )
        if not run.is_finished:
            run._lock = FolderLock.take(path)
        run._sweep()
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open a run folder, finished or not; reads nothing large.

        Raises:
            StoreError: If there is no such folder, or a newer Offbeat wrote it.
            CorruptRunError: If it is no run, or damaged.
        """
        path = Path(path)
        if not _is_folder(path):
            raise StoreError(f"{path}: no such run folder")
        request = read_json(path / REQUEST)
        version = request.pop("schema_version", None)
        if not isinstance(version, int) or isinstance(version, bool):
            raise CorruptRunError(f"{path / REQUEST}: expected a schema_version, got {version!r}")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{path}: written by a newer Offbeat (schema {version}, this one reads up to "
                f"{SCHEMA_VERSION}): pip install --upgrade offbeat"
            )
        run = cls(path, request)
        if run.is_finished:
            run._check_sizes()
        return run

    def _sweep(self) -> None:
        """Remove what a killed run left behind; failing to is no harm."""
        for folder, _, names in os.walk(self.path):  # which passes over what it may not read
            for name in filter(_is_temp, names):
                with suppress(OSError):
                    os.unlink(os.path.join(folder, name))
        if self.is_finished:
            shutil.rmtree(self.path / "checkpoint", ignore_errors=True)

    # --- files

    def locate(self, relative: str) -> Path:
        """Return where a file of the run is.

        Raises:
            StoreError: If ``relative`` leads out of the folder.
        """
        parts = PurePosixPath(relative)
        if parts.is_absolute() or ".." in parts.parts or "\\" in relative or not parts.parts:
            raise StoreError(f"{relative!r}: expected a path inside the run folder")
        return self.path.joinpath(*parts.parts)

    def exists(self, relative: str) -> bool:
        """Return whether the run has this file."""
        return self.locate(relative).is_file()

    def read(self, relative: str) -> bytes:
        """Return a file's content.

        Raises:
            CorruptRunError: If it is missing.
            StoreError: If it cannot be read.
        """
        path = self.locate(relative)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise CorruptRunError(f"{self.path}: {relative} is missing") from error
        except OSError as error:
            raise explained("read", path, error) from error

    def read_json(self, relative: str) -> dict[str, Any]:
        """Return a file's JSON object.

        Raises:
            CorruptRunError: If it is missing or damaged.
        """
        return read_json(self.locate(relative))

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files, each atomically, in the order given.

        Raises:
            StoreError: If one cannot be written; those before it stay.
        """
        for relative, data in files.items():
            path = self.locate(relative)
            make_folder(path.parent)
            write_atomic(path, data)

    # --- trace

    def append_trace(self, row: Mapping[str, Any]) -> None:
        """Append one JSON line; a number that is not finite is written as null.

        Raises:
            StoreError: If the disk is full; the line is taken back.
        """
        append_line(self.path / TRACE, row)

    def trace(self) -> list[dict[str, Any]]:
        """Return the rows; a last line that a kill cut short is left out.

        Raises:
            CorruptRunError: If a whole line is no JSON object.
        """
        if not self.exists(TRACE):
            return []
        lines = self.read(TRACE).split(b"\n")
        rows = []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                row = parse_json(line)
            except ValueError as error:
                raise CorruptRunError(f"{self.path / TRACE}, line {number}: {error}") from error
            if not isinstance(row, dict):
                raise CorruptRunError(f"{self.path / TRACE}, line {number}: expected an object")
            rows.append(row)
        return rows

    def cut_trace(self, num_rows: int) -> None:
        """Keep the first ``num_rows`` rows: those that were written before the checkpoint.

        Raises:
            CorruptRunError: If there are fewer.
        """
        count = len(self.trace())
        if count < num_rows:
            raise CorruptRunError(
                f"{self.path / TRACE}: expected at least the {num_rows} rows of the checkpoint, "
                f"got {count}"
            )
        data = self.read(TRACE) if self.exists(TRACE) else b""
        kept = b"".join(line + b"\n" for line in data.split(b"\n")[:num_rows])
        if kept != data:
            write_atomic(self.path / TRACE, kept)

    # --- checkpoint

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint; the trace written so far is made to last with it.

        Args:
            state: Nested dicts, lists and tuples of tensors, numbers, text and None.

        Raises:
            StoreError: If the disk is full; the checkpoint before it stays.
            TypeError: If ``state`` holds something else.
        """
        tensors: dict[str, Tensor] = {}
        tree = flatten(state, tensors)
        trace = self.path / TRACE
        try:
            with open(trace, "rb") as file:
                os.fsync(file.fileno())
        except FileNotFoundError:
            pass  # no step was made yet
        except OSError as error:
            raise explained("written", trace, error) from error
        self.write({CHECKPOINT: pack_tensors(tensors, tree)})

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return the state last saved, or None.

        Raises:
            CorruptRunError: If it is damaged.
        """
        if not self.exists(CHECKPOINT):
            return None
        try:
            tensors, tree = unpack_tensors(self.read(CHECKPOINT))
            state: dict[str, Any] = unflatten(tree, tensors)
        except (ValueError, KeyError) as error:
            raise CorruptRunError(
                f"{self.path / CHECKPOINT}: {error}; remove the folder checkpoint/ to start over"
            ) from error
        return state

    # --- the end

    @property
    def is_finished(self) -> bool:
        """Whether ``finish`` was reached."""
        return (self.path / DONE).exists()

    def finish(self) -> None:
        """Mark the run complete, with a digest of every file, and remove the checkpoint."""
        files = {
            relative: {"bytes": len(data), "blake2b": digest_of(data)}
            for relative in self.names()
            for data in [self.read(relative)]
        }
        done = {"schema_version": SCHEMA_VERSION, "files": files}
        write_atomic(self.path / DONE, json_bytes(done))
        shutil.rmtree(self.path / "checkpoint", ignore_errors=True)
        self._lock = None

    def verify(self) -> None:
        """Read everything and compare it with its digests.

        Raises:
            CorruptRunError: With every file that is missing or changed.
        """
        self.trace()
        self.load_checkpoint()
        if not self.is_finished:
            return
        self._check_sizes()
        recorded = self._recorded()
        changed = [name for name in recorded if digest_of(self.read(name)) != recorded[name][1]]
        if changed:
            raise CorruptRunError(f"{self.path}: changed since the run: {', '.join(changed)}")

    def names(self) -> list[str]:
        """Return every file of the run but the checkpoint and the marker, sorted."""
        paths = (path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file())
        return sorted(
            path.as_posix()
            for path in paths
            if path.parts[0] != "checkpoint"
            and path.as_posix() != DONE
            and not any(part.startswith(".") for part in path.parts)
        )

    def _recorded(self) -> dict[str, tuple[int, str]]:
        done = read_json(self.path / DONE)
        try:
            return {
                name: (int(entry["bytes"]), str(entry["blake2b"]))
                for name, entry in done["files"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptRunError(f"{self.path / DONE}: expected names and digests") from error

    def _check_sizes(self) -> None:
        problems = []
        for name, (size, _) in self._recorded().items():
            path = self.locate(name)
            if not path.is_file():
                problems.append(f"{name} is missing")
            elif path.stat().st_size != size:
                problems.append(f"{name} has {path.stat().st_size} bytes, not {size}")
        if problems:
            raise CorruptRunError(f"{self.path}: {'; '.join(problems)}")


def _is_folder(path: Path) -> bool:
    """Return whether this is a folder.

    Raises:
        StoreError: If the disk cannot say: a name too long, a folder above that is not to be read.
    """
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise explained("read", path, error) from error


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder) if folder.exists() else []
    except OSError as error:
        raise explained("read", folder, error) from error


def _is_temp(name: str) -> bool:
    return name.startswith(TEMP_PREFIX) and name.endswith(".tmp")


def _differences(got: Any, expected: Any, name: str = "") -> list[str]:
    """Return one line for each setting that differs, by its dotted name."""
    if isinstance(got, dict) and isinstance(expected, dict):
        return [
            line
            for key in sorted({*got, *expected})
            for line in _differences(
                got.get(key, "nothing"),
                expected.get(key, "nothing"),
                f"{name}.{key}" if name else key,
            )
        ]
    return [] if got == expected else [f"{name}: got {got!r}, expected {expected!r}"]
