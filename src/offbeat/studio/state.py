"""What lives as long as a studio: its settings, database, queue and event streams."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offbeat.studio import uploads
from offbeat.studio.about import Catalogue
from offbeat.studio.arguments import Arguments
from offbeat.studio.brought import bring
from offbeat.studio.database import Database, Row
from offbeat.studio.events import Events
from offbeat.studio.queue import Queue
from offbeat.studio.security import WRONG_TOKENS, Counter, Rules
from offbeat.studio.sketches import Sketches

PER_SESSION, IN_ALL = 20, 200
"""Jobs that may wait."""
TRASH_DAYS = 30
DISK_SECONDS = 30.0
"""How long a reading of the used space holds."""
DISK_RESERVE = 2**28
"""Bytes of the disk that stay free, so that what runs can end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a studio."""

    folder: Path
    host: str = "127.0.0.1"
    port: int = 8188
    token: str | None = None
    names: tuple[str, ...] = ()
    """Further names by which browsers may reach it."""
    backbone: str = "pocket"
    """Name of the checkpoint that requests take which name none."""
    source: str | None = None
    """Where that is, if it is no name."""
    device: str = "auto"
    shelf: tuple[Path, ...] = ()
    """Folders of runs of the command line, to be shown on the shelf."""
    disk_bytes: int = 50 * 2**30
    """What the studio's folder may hold; then nothing new is taken until something is removed."""


class DiskFull(Exception):
    """There is no room for more."""


class Studio:
    """The parts of a running studio."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.folder = settings, settings.folder.resolve()
        (self.folder / "runs").mkdir(parents=True, exist_ok=True)
        self.database = Database(self.folder / "studio.sqlite")
        for source in settings.shelf:
            bring(self.database, self.folder, source)
        self.rules = Rules.of(
            self.database.secret(),
            host=settings.host,
            token=settings.token,
            names=settings.names,
        )
        self.limits = {
            "upload_bytes": uploads.MAX_BYTES,
            "upload_pixels": int(uploads.MAX_MEGAPIXELS * 1e6),
            "uploads": uploads.MAX_UPLOADS,
            "queued_per_session": PER_SESSION,
            "queued": IN_ALL,
            "streams_per_session": 8,
            "images": 64,
        }
        self.events = Events(per_session=8, in_all=200)
        self.wrong_tokens = Counter(WRONG_TOKENS)
        self._disk_read, self._disk_used = -math.inf, 0
        self.catalogue: Catalogue
        self.arguments: Arguments
        self.sketches: Sketches
        self.queue = Queue(
            self.database,
            self.events,
            self.folder,
            device=settings.device,
            warm=settings.source or settings.backbone,
        )

    async def start(self) -> None:
        """Load the catalogue that requests are checked against, and continue interrupted jobs."""
        self.queue.spawn()  # which loads its checkpoint meanwhile
        source = self.settings.source
        self.catalogue = await asyncio.to_thread(Catalogue, self.settings.backbone, source=source)
        self.arguments = Arguments(self.database, self.folder, self.catalogue)
        self.sketches = Sketches(self.arguments)
        self.queue.start(self.arguments.of_row)

    async def tidy(self) -> None:
        """Delete what is old in the trash, now and every hour."""
        while True:
            before = time.time() - TRASH_DAYS * 86_400
            rows = self.database.rows("SELECT id FROM runs WHERE deleted < ?", [before])
            await asyncio.to_thread(self._forget, rows)
            await asyncio.sleep(3600)

    def empty_trash(self, session: str) -> int:
        """Delete what a session has thrown away, for good; return how many runs that were."""
        thrown = "SELECT id FROM runs WHERE session = ? AND deleted IS NOT NULL"
        rows = self.database.rows(thrown, [session])
        self._forget(rows)
        return len(rows)

    def _forget(self, rows: Sequence[Row]) -> None:
        for row in rows:
            shutil.rmtree(self.run_folder(row["id"]), ignore_errors=True)
            self.database.forget_run(row["id"])

    def check_disk(self) -> None:
        """Refuse new work where there is no room for it.

        Raises:
            DiskFull: If the folder holds as much as it may, or the disk is full.
        """
        if time.monotonic() - self._disk_read > DISK_SECONDS:
            self._disk_used = sum(
                _size(Path(where, name))
                for where, _, names in os.walk(self.folder)
                for name in names
            )
            self._disk_read = time.monotonic()
        limit = self.settings.disk_bytes
        if self._disk_used > limit:
            raise DiskFull(f"the studio holds {limit >> 30} GiB, the most that it may")
        if shutil.disk_usage(self.folder).free < DISK_RESERVE:
            raise DiskFull("the disk of the studio is nearly full")

    def close(self) -> None:
        """End the worker and the streams."""
        self.events.close()
        self.queue.close()
        self.sketches.close()
        self.database.close()

    def run_folder(self, run: str) -> Path:
        """Return the folder of a run; ``run`` is an identifier from the list."""
        return self.folder / "runs" / run


def _size(file: Path) -> int:
    """Return the bytes of a file; 0 of one that was removed meanwhile."""
    try:
        return file.lstat().st_size
    except OSError:
        return 0
