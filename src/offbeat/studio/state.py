"""What lives as long as a studio: its settings, database, queue and event streams."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from offbeat.studio import uploads
from offbeat.studio.about import Catalogue
from offbeat.studio.arguments import Arguments
from offbeat.studio.database import Database
from offbeat.studio.events import Events
from offbeat.studio.queue import Queue
from offbeat.studio.security import Rules
from offbeat.studio.sketches import Sketches

PER_SESSION, IN_ALL = 20, 200
"""Jobs that may wait."""
TRASH_DAYS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a studio is run."""

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


class Studio:
    """Everything that lives as long as the server."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.folder = settings, settings.folder.resolve()
        (self.folder / "runs").mkdir(parents=True, exist_ok=True)
        self.database = Database(self.folder / "studio.sqlite")
        self.rules = Rules.of(
            self.database.secret(),
            host=settings.host,
            port=settings.port,
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
        """Load what requests are checked against; take up what was under way."""
        self.queue.spawn()  # which loads its checkpoint meanwhile
        source = self.settings.source
        self.catalogue = await asyncio.to_thread(Catalogue, self.settings.backbone, source=source)
        self.arguments = Arguments(self.database, self.folder, self.catalogue)
        self.sketches = Sketches(self.arguments)
        self.queue.start(self.arguments.of_row)

    async def tidy(self) -> None:
        """Empty the trash of what is old, now and every hour."""
        while True:
            before = time.time() - TRASH_DAYS * 86_400
            old = "SELECT id FROM runs WHERE deleted < ?"
            for row in self.database.rows(old, [before]):
                await asyncio.to_thread(shutil.rmtree, self.run_folder(row["id"]), True)
                self.database.forget_run(row["id"])
            await asyncio.sleep(3600)

    def close(self) -> None:
        """End the worker and the streams."""
        self.events.close()
        self.queue.close()
        self.sketches.close()
        self.database.close()

    def run_folder(self, run: str) -> Path:
        """Return the folder of a run; ``run`` is an identifier from the list."""
        return self.folder / "runs" / run
