"""The application: what a studio consists of, put together, and errors as the API says them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from offbeat import formats
from offbeat.errors import OffbeatError
from offbeat.studio import events, sketches, uploads
from offbeat.studio.about import Catalogue
from offbeat.studio.arguments import Arguments, NotThere
from offbeat.studio.database import Database
from offbeat.studio.events import Events
from offbeat.studio.queue import Queue, without_paths
from offbeat.studio.security import Guard, Rules
from offbeat.studio.sketches import Sketches

log = logging.getLogger("offbeat.studio")
PER_SESSION, IN_ALL = 20, 200
"""Jobs that may wait."""
TRASH_DAYS = 30
SLACK = 2**16
"""Bytes that a multipart body may have beside its file."""


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


def create_app(settings: Settings) -> FastAPI:
    """Return the application of a studio."""
    from offbeat.studio import pages, routes

    studio = Studio(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await studio.start()
        tidy = asyncio.create_task(studio.tidy())
        try:
            yield
        finally:
            tidy.cancel()
            await asyncio.to_thread(studio.close)

    app = FastAPI(
        title="Offbeat studio",
        version=formats.versions()["offbeat"],
        summary="What the studio's page uses, and programs may too. See docs/studio.md.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # it would fetch scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.studio = studio
    app.include_router(routes.router, prefix="/api/v1")
    app.include_router(pages.router)
    pages.mount(app)
    _say_errors(app)
    rules = studio.rules
    app.add_middleware(Guard, rules=_with_slack(rules))
    return app


def _with_slack(rules: Rules) -> Rules:
    from dataclasses import replace

    return replace(rules, upload_bytes=uploads.MAX_BYTES + SLACK)


def failure(
    status: int,
    kind: str,
    text: str,
    *,
    fields: Sequence[Mapping[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return an error as the API says it."""
    body = {"error": without_paths(text), "kind": kind, "fields": list(fields)}
    return JSONResponse(body, status, headers=dict(headers or {}))


def _say_errors(app: FastAPI) -> None:
    """Have every error answered in one form, without paths and tracebacks."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        found = [
            {"where": [str(part) for part in one["loc"]], "what": str(one["msg"])[:300]}
            for one in error.errors()[:20]
        ]
        text = "; ".join(f"{'.'.join(one['where'][1:])}: {one['what']}" for one in found[:3])
        return failure(422, "invalid", text or "the request cannot be read", fields=found)

    @app.exception_handler(OffbeatError)
    async def refused(request: Request, error: OffbeatError) -> JSONResponse:
        return failure(422, "invalid", str(error))

    @app.exception_handler(NotThere)
    async def absent(request: Request, error: NotThere) -> JSONResponse:
        return failure(404, "not_found", f"{error}: it is not there, or not yours")

    @app.exception_handler(uploads.TooManyUploads)
    async def full(request: Request, error: Exception) -> JSONResponse:
        text = f"expected at most {uploads.MAX_UPLOADS} uploads; remove some"
        return failure(429, "busy", text, headers={"retry-after": "60"})

    @app.exception_handler(events.TooManyStreams)
    async def streaming(request: Request, error: Exception) -> JSONResponse:
        return failure(
            429,
            "busy",
            "too many event streams are open; close some",
            headers={"retry-after": "30"},
        )

    @app.exception_handler(sketches.TooMany)
    async def sketching(request: Request, error: Exception) -> JSONResponse:
        return failure(
            429, "busy", "too many sketches wait; ask again", headers={"retry-after": "1"}
        )

    @app.exception_handler(sketches.Outdated)
    async def outdated(request: Request, error: Exception) -> JSONResponse:
        return failure(409, "outdated", "a newer sketch was asked for")

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> JSONResponse:
        kind = _KINDS.get(error.status_code, "bad_request")
        return failure(error.status_code, kind, str(error.detail), headers=error.headers)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        return failure(500, "failed", "a fault of the studio's; its log says where")


_KINDS = {
    401: "login", 403: "forbidden", 404: "not_found", 405: "method", 409: "conflict",
    413: "too_large", 415: "media_type", 422: "invalid", 429: "busy",
}  # fmt: skip
