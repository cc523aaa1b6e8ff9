"""The page, its static files, and the login form where a token is needed."""

from __future__ import annotations

import asyncio
import html
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, FastAPI, Form, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles

from offbeat.studio.security import address_of

router = APIRouter(include_in_schema=False)
LOOPBACK = ("127.0.0.1", "0.0.0.0")
"""Where a server listens that 127.0.0.1 reaches."""
STATIC = Path(__file__).parent / "static"


@router.get("/")
def page(request: Request) -> Response:
    """Return the page; ``localhost`` leads to 127.0.0.1, since each name has its own session."""
    if request.url.hostname == "localhost" and request.app.state.studio.settings.host in LOOPBACK:
        return RedirectResponse(str(request.url.replace(hostname="127.0.0.1")), 307)
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


@router.get("/favicon.ico")
def icon() -> Response:
    """Return the mark of the studio."""
    return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml")


@router.get("/login")
def door(request: Request) -> Response:
    """Return the login form."""
    studio = request.app.state.studio
    if studio.settings.token is None:
        return RedirectResponse("/", 303)
    return _door("", request.query_params.get("next", "/"))


@router.post("/login")
async def enter(
    request: Request,
    token: Annotated[str, Form(max_length=500)] = "",
    next: Annotated[str, Form(max_length=500)] = "/",
) -> Response:
    """Check the token, set the session's cookie, and show the page."""
    studio, address = request.app.state.studio, address_of(request.scope)
    if studio.wrong_tokens.is_full(address):
        return _door("Too many wrong tokens from this address: wait a minute.", next, 429)
    if not studio.rules.allows_token(token.strip()):
        studio.wrong_tokens.add(address)
        await asyncio.sleep(0.3)
        return _door("That is not the token.", next, 403)
    local = next if next.startswith("/") and not next.startswith(("//", "/\\")) else "/"
    is_secure = request.url.scheme == "https"
    cookie = studio.rules.set_cookie(studio.rules.new_cookie(), is_secure=is_secure)
    return RedirectResponse(local, 303, headers={"set-cookie": cookie})


def _door(said: str, next: str, status: int = 200) -> Response:
    text = f'<p role="alert">{html.escape(said)}</p>' if said else ""
    return HTMLResponse(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><title>Offbeat studio</title></head>'
        f"<body><main><h1>Offbeat studio</h1>{text}"
        '<form method="post" action="/login"><p><label>Token '
        '<input name="token" type="password" autocomplete="current-password" required autofocus>'
        f'</label> <input type="hidden" name="next" value="{html.escape(next, quote=True)}">'
        "<button>Enter</button></p></form>"
        "<p>Whoever started the studio knows it.</p></main></body></html>",
        status,
    )


def mount(app: FastAPI) -> None:
    """Serve the page's own files."""
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
