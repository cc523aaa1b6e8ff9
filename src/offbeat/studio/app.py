"""Build the FastAPI application of a studio, and turn errors into JSON answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from offbeat.errors import OffbeatError
from offbeat.files.labels import versions
from offbeat.studio import events, pages, routes, sketches, uploads
from offbeat.studio.arguments import NotThere
from offbeat.studio.queue import without_paths
from offbeat.studio.security import Guard, Rules
from offbeat.studio.state import DiskFull, Settings, Studio

log = logging.getLogger("offbeat.studio")
SLACK = 2**16
"""Bytes that a multipart body may have beside its file."""


def create_app(settings: Settings) -> FastAPI:
    """Return the application of a studio."""
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
        version=versions()["offbeat"],
        summary="What the studio's page uses, and programs may too. See docs/studio.md.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # it would fetch scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.studio = studio
    describe_security(app, settings)
    app.include_router(routes.router, prefix="/api/v1")
    app.include_router(pages.router)
    pages.mount(app)
    say_errors(app)
    rules = studio.rules
    app.add_middleware(Guard, rules=_with_slack(rules), wrong_tokens=studio.wrong_tokens)
    return app


def _with_slack(rules: Rules) -> Rules:
    from dataclasses import replace

    return replace(rules, upload_bytes=uploads.MAX_BYTES + SLACK)


def describe_security(app: FastAPI, settings: Settings) -> None:
    """Say in the schema how a program proves who it is."""

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=app.version, summary=app.summary, routes=app.routes
            )
            schemes: dict[str, Any] = {
                "session": {"type": "apiKey", "in": "cookie", "name": app.state.studio.rules.cookie}
            }
            if settings.token is not None:
                schemes["token"] = {"type": "http", "scheme": "bearer"}
            made.setdefault("components", {})["securitySchemes"] = schemes
            made["security"] = [{name: []} for name in schemes]
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]


def failure(
    status: int,
    kind: str,
    text: str,
    *,
    fields: Sequence[Mapping[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return an error as a JSON answer."""
    body = {"error": without_paths(text), "kind": kind, "fields": list(fields)}
    return JSONResponse(body, status, headers=dict(headers or {}))


def say_errors(app: FastAPI) -> None:
    """Answer every error in one form, without paths and tracebacks."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = [
            {"where": [str(part) for part in problem["loc"]], "what": str(problem["msg"])[:300]}
            for problem in error.errors()[:20]
        ]
        text = "; ".join(
            f"{'.'.join(problem['where'][1:])}: {problem['what']}" for problem in problems[:3]
        )
        return failure(422, "invalid", text or "the request cannot be read", fields=problems)

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

    @app.exception_handler(DiskFull)
    async def no_room(request: Request, error: Exception) -> JSONResponse:
        text = f"{error}; remove runs and uploads, or empty the trash"
        return failure(507, "full", text)

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
