"""Runs of the command line on the shelf: linked into the studio's folder, and shown to all.

A studio serves files of its own folder alone. So the files of such a run are linked (or copied,
where another disk holds them) into it once; the run itself is not touched.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from offbeat.errors import ConfigError, OffbeatError
from offbeat.files.disk import digest_of
from offbeat.runs.folder import RunFolder
from offbeat.studio.database import Database, Row
from offbeat.studio.files import allowed_names
from offbeat.studio.uploads import request_of

log = logging.getLogger("offbeat.studio")
MAX_RUNS = 10_000
"""Of one folder."""
MAX_DEPTH = 3
"""Folders below it that are looked into: a sweep keeps its runs in one."""


def bring(database: Database, studio: Path, source: Path) -> int:
    """Put the finished runs of a folder on the shelf; return how many are new.

    Args:
        database: Of the studio.
        studio: Its folder.
        source: A run folder, or one that holds some.

    Raises:
        ConfigError: If it is no folder.
    """
    if not source.is_dir():
        raise ConfigError(f"--shelf {source}: expected a folder of runs, and there is none")
    count = new = 0
    for path in _runs(source.resolve(), MAX_DEPTH):
        count += 1
        if count > MAX_RUNS:
            log.warning("%s: has more than %s runs; the others are left out", source, MAX_RUNS)
            break
        name = digest_of(str(path).encode())[:16]
        if database.run(name) is not None:
            continue
        try:
            row = _row(path)
            _link(path, studio / "runs" / name)
        except (OffbeatError, OSError, ValueError, LookupError, TypeError) as error:
            log.warning("%s: is not shown (%s)", path, error)
            continue
        names = allowed_names(studio / "runs" / name)
        covers = [name for name in names if name.startswith("images/")]
        database.add_finished({**row, "id": name, "cover": min(covers, default=None)})
        new += 1
    if not count:  # they may come later
        log.warning("%s: holds no finished run, to a depth of %s folders", source, MAX_DEPTH)
    return new


def _runs(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the finished run folders in a folder, sorted."""
    try:
        names = set(os.listdir(folder))
        below = [] if "request.json" in names else [folder / name for name in sorted(names)]
        below = [path for path in below if path.is_dir() and not path.is_symlink()]
    except OSError as error:
        log.warning("%s: is left out (%s)", folder, error)
        return
    if {"request.json", "summary.json"} <= names:
        yield folder
    for path in below if depth else []:
        yield from _runs(path, depth - 1)


def _row(path: Path) -> Row:
    run = RunFolder.open(path)
    asked, summary = run.request, run.read_json("summary.json")
    job: dict[str, Any] = {}
    with suppress(OffbeatError, LookupError, TypeError, ValueError, AttributeError):
        job = request_of(asked)  # else it cannot be asked for from the page
    names = run.names()
    many = len({name.split("/")[1] for name in names if name.startswith("concepts/")})
    written = (path / "summary.json").stat().st_mtime
    return {
        # nobody's own: everybody sees it, and nobody changes it
        "session": "", "shared": 1, "state": "finished", "created": written, "ended": written,
        "verb": str(asked.get("verb", "run"))[:30], "request": job, "title": path.name[:120],
        "subject": str(asked.get("subject") or path.name)[:200],
        "method": str(asked.get("method") or job.get("method") or "")[:64],
        "backbone": str(asked.get("checkpoint", ""))[:64],
        "in_words": str(summary.get("in_words", "")),
        "num_images": sum(name.startswith("images/") for name in names),
        "num_concepts": many or int("concept.safetensors" in names),
    }  # fmt: skip


def _link(source: Path, target: Path) -> None:
    """Make a folder of the same files, which appears whole or not at all."""
    made = target.with_name(target.name + ".new")
    shutil.rmtree(made, ignore_errors=True)
    for where, folders, names in os.walk(source):
        folders[:] = [name for name in folders if not os.path.islink(os.path.join(where, name))]
        place = made / Path(where).relative_to(source)
        place.mkdir(parents=True)
        for name in names:
            path = os.path.join(where, name)
            if os.path.islink(path) or name.startswith("."):
                continue
            try:
                os.link(path, place / name)
            except OSError:
                shutil.copy2(path, place / name)
    shutil.rmtree(target, ignore_errors=True)
    made.rename(target)
