"""The page of a blind study, for those who take part: links, one decision a screen, pictures.

Nothing that is sent says which condition a picture is of. Results cannot be read here: they come
from ``offbeat study analyse`` alone, on the machine where the answers are.
"""

from __future__ import annotations

import html
import secrets
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from offbeat.errors import StoreError
from offbeat.studio.app import failure, say_errors
from offbeat.studio.pages import STATIC
from offbeat.studio.security import WRONG_TOKENS, Counter, Guard, Rules, address_of
from offbeat.study.design import Study
from offbeat.study.storage import Full, RaterState, Refused, Storage, UnknownLink

NEW_RATERS = 60
"""Who may join from one address in a minute, where a study is open."""
PRELOADED = 3
"""Trials whose pictures the page loads beforehand."""

router = APIRouter()


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    key: str = Field(min_length=8, max_length=64)
    position: int = Field(ge=0)
    value: str | int | list[int]
    seconds: float = Field(ge=0, le=86_400)


class _Undo(BaseModel):
    model_config = ConfigDict(extra="forbid")
    key: str = Field(min_length=8, max_length=64)


def create_app(study: Study, storage: Storage, *, host: str, names: tuple[str, ...]) -> FastAPI:
    """Return the application of a study.

    Args:
        study: What is asked.
        storage: Where answers go.
        host: Address that it listens on.
        names: Further names by which browsers may reach it.
    """
    app = FastAPI(title=study.design.title, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.study, app.state.storage = study, storage
    app.state.wrong_links, app.state.new_raters = Counter(WRONG_TOKENS), Counter(NEW_RATERS)
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    say_errors(app)
    _say_refusals(app)
    rules = Rules.of(secrets.token_bytes(32), host=host, token=None, names=names)
    app.add_middleware(Guard, rules=rules, wrong_tokens=app.state.wrong_links, has_sessions=False)
    return app


def _say_refusals(app: FastAPI) -> None:
    @app.exception_handler(UnknownLink)
    async def unknown(request: Request, error: Exception) -> Response:
        app.state.wrong_links.add(address_of(request.scope))
        return failure(404, "not_found", "this link is not known; ask whoever sent it")

    @app.exception_handler(Full)
    async def full(request: Request, error: Exception) -> Response:
        return failure(409, "full", "enough people have taken part; thank you")

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Exception) -> Response:
        return failure(409, "conflict", str(error))

    @app.exception_handler(StoreError)
    async def busy(request: Request, error: Exception) -> Response:
        return failure(503, "busy", "the answer could not be stored; try again")


def _check_address(request: Request) -> None:
    """Refuse an address that tries links which are not known."""
    if request.app.state.wrong_links.is_full(address_of(request.scope)):
        raise HTTPException(429, "too many unknown links from this address; wait a minute")


def _token(request: Request, authorization: str) -> str:
    _check_address(request)
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not 10 <= len(token) <= 100:
        raise UnknownLink
    return token


Authorization = Annotated[str, Header(max_length=200)]


@router.get("/", include_in_schema=False)
def door(request: Request) -> Response:
    """Return the way in: a button where the study is open, or a word about invitations."""
    design = request.app.state.study.design
    inside = (
        '<form method="post" action="/join"><button class="primary">Begin</button></form>'
        if design.open
        else "<p>Open the link of your invitation to take part.</p>"
    )
    return HTMLResponse(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(design.title)}</title>"
        '<link rel="stylesheet" href="/static/studio.css">'
        '<link rel="stylesheet" href="/static/study/study.css"></head>'
        f'<body><main class="study"><h1>{html.escape(design.title)}</h1>{inside}</main></body>'
        "</html>"
    )


@router.post("/join", include_in_schema=False)
def join(request: Request) -> Response:
    """Make a rater of an open study, and lead to the rater's own link."""
    if not request.app.state.study.design.open:
        raise HTTPException(403, "this study is by invitation")
    address = address_of(request.scope)
    if request.app.state.new_raters.is_full(address):
        raise HTTPException(429, "too many have joined from this address; wait a minute")
    request.app.state.new_raters.add(address)
    token = request.app.state.storage.join(language=_language(request))
    return RedirectResponse(f"/s/{token}", 303)


@router.get("/s/{token}", include_in_schema=False)
def page(token: str) -> Response:
    """Return the page; it reads the token from its own address, and sends it with each answer."""
    return FileResponse(
        Path(STATIC) / "study" / "study.html", headers={"cache-control": "no-cache"}
    )


@router.get("/pictures/{name}.png", include_in_schema=False)
def picture(request: Request, name: str) -> Response:
    """Return a picture of the study."""
    study = request.app.state.study
    if name not in study.by_id:
        raise HTTPException(404, "no such picture")
    headers = {"cache-control": "private, max-age=86400, immutable"}
    return Response(study.file(name).read_bytes(), media_type="image/png", headers=headers)


@router.get("/api/study/state")
def state(request: Request, authorization: Authorization = "") -> dict[str, Any]:
    """Return what is shown next; an invitation becomes a rater here."""
    token = _token(request, authorization)
    storage = request.app.state.storage
    return _state(request, storage.rater(storage.join(token, language=_language(request))))


@router.post("/api/study/answers")
def answer(request: Request, given: _Answer, authorization: Authorization = "") -> dict[str, Any]:
    """Store an answer, and return what is shown next."""
    token = _token(request, authorization)
    return _state(request, request.app.state.storage.answer(token, **given.model_dump()))


@router.post("/api/study/undo")
def undo(request: Request, given: _Undo, authorization: Authorization = "") -> dict[str, Any]:
    """Take the last answer back, and return what is shown next."""
    token = _token(request, authorization)
    return _state(request, request.app.state.storage.undo(token, key=given.key))


def _language(request: Request) -> str | None:
    """Return the first language of the browser in which the study is asked."""
    languages = request.app.state.study.design.languages
    for part in request.headers.get("accept-language", "").split(","):
        wanted = part.partition(";")[0].strip()
        for language in languages:
            if wanted == language or wanted.partition("-")[0] == language:
                return str(language)
    return None


def _state(request: Request, rater: RaterState) -> dict[str, Any]:
    design = request.app.state.study.design
    language = rater.language
    ahead = rater.trials[rater.position : rater.position + PRELOADED]
    shown: dict[str, Any] | None = None
    if not rater.is_finished:
        trial = rater.trials[rater.position]
        shown = {
            "question": design.question[language].format(item=trial.item),
            "pictures": list(trial.pictures),
            "is_practice": trial.purpose == "practice",
            "expected": trial.expected,
        }
    anchors = design.scale.anchors
    return {
        "title": design.title,
        "kind": design.kind,
        "language": language,
        "introduction": design.introduction.get(language, ""),
        "consent": design.consent.get(language, ""),
        "ties": design.ties,
        "scale": {
            "low": design.scale.low,
            "high": design.scale.high,
            "anchors": anchors.get(language) or next(iter(anchors.values()), {}),
        },
        "min_seconds": design.min_seconds,
        "position": rater.position,
        "total": len(rater.trials),
        "trial": shown,
        "ahead": [name for trial in ahead for name in trial.pictures],
    }
