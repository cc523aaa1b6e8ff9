"""The routes of the API, under ``/api/v1``; see ``docs/studio.md``."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Header, Path, Query, Request, UploadFile
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from offbeat.errors import ConfigError
from offbeat.studio import answers, exports, requests, shelf, uploads
from offbeat.studio.arguments import NotThere
from offbeat.studio.database import OPEN, Row, new_id
from offbeat.studio.events import Stream
from offbeat.studio.files import TYPES, allowed_file
from offbeat.studio.security import REPORT_POLICY, address_of
from offbeat.studio.state import IN_ALL, PER_SESSION, Studio

Found = dict[str, Any]
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": requests.Failure} for status in (400, 401, 403, 404, 409, 413, 422, 429)
}
router = APIRouter(responses=_ERRORS)
STATES = ("queued", "running", "finished", "failed", "cancelled", "interrupted")


def studio_of(request: Request) -> Studio:
    """Return the studio that the application serves."""
    studio: Studio = request.app.state.studio
    return studio


def session_of(request: Request) -> str:
    """Return the session of a request."""
    return str(request.state.session)


TheStudio = Annotated[Studio, Depends(studio_of)]
Session = Annotated[str, Depends(session_of)]
Name = Annotated[requests.Id, Path(description="16 hexadecimal digits.")]


# --- this server


@router.get("/about", operation_id="get_about", tags=["server"], response_model=answers.About)
def about(studio: TheStudio) -> Found:
    """What this server has: checkpoints, methods with their settings, judges, words, limits."""
    studio.catalogue.learn(studio.queue.card)
    return studio.catalogue.as_json(studio.limits)


@router.get("/session", operation_id="get_session", tags=["server"], response_model=answers.Counts)
def session(studio: TheStudio, session: Session) -> Found:
    """What this session has."""
    count = studio.database.num_jobs
    return {
        "uploads": len(studio.database.uploads(session)),
        "runs": count(["finished"], session),
        "queued": count(["queued"], session),
        "running": count(["running"], session),
    }


@router.get(
    "/events", response_class=StreamingResponse, operation_id="stream_events", tags=["server"]
)
async def events(
    request: Request,
    studio: TheStudio,
    session: Session,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Server-sent events of this session."""
    number = re.fullmatch(r"[0-9]{1,18}", last_event_id or "")
    last, address = int(number[0]) if number else None, address_of(request.scope)
    return EventResponse(studio.events.open(session, last, address=address))


class EventResponse(StreamingResponse):
    """Streams events, and frees the stream's place however the answer ends."""

    def __init__(self, stream: Stream) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(stream, media_type="text/event-stream", headers=headers)
        self._stream = stream

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send events until whoever asked leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()


# --- jobs


@router.post(
    "/jobs", status_code=202, operation_id="create_job", tags=["jobs"], response_model=answers.Job
)
async def ask(request: requests.JobRequest, studio: TheStudio, session: Session) -> Found:
    """Add a job: it is checked and put at the end of the queue."""
    return _queued(studio, session, request)


@router.get("/jobs", operation_id="list_jobs", tags=["jobs"], response_model=answers.Jobs)
def jobs(
    studio: TheStudio,
    session: Session,
    state: Annotated[str, Query(max_length=100, description="One or more, by commas.")] = "",
) -> Found:
    """This session's jobs, newest first."""
    wanted = [name for name in state.split(",") if name] or list(STATES)
    if unknown := set(wanted) - set(STATES):
        raise ConfigError(f"state: expected some of {', '.join(STATES)}, got {sorted(unknown)}")
    rows = studio.database.jobs(session, wanted)
    others = studio.database.num_jobs(OPEN) - studio.database.num_jobs(OPEN, session)
    return {"jobs": [studio.queue.entry(row) for row in rows], "others": others}


@router.get("/jobs/{name}", operation_id="get_job", tags=["jobs"], response_model=answers.Job)
def job(name: Name, studio: TheStudio, session: Session) -> Found:
    """One job."""
    return studio.queue.entry(_own(studio, session, name))


@router.delete("/jobs/{name}", operation_id="cancel_job", tags=["jobs"], response_model=answers.Job)
async def cancel(name: Name, studio: TheStudio, session: Session) -> Found:
    """Cancel a job. A running job ends at its next step and keeps what it has."""
    row = _own(studio, session, name)
    if row["state"] not in OPEN:
        raise HTTPException(409, f"the job is {row['state']} already")
    studio.queue.cancel(row)
    return studio.queue.entry(_own(studio, session, name))


@router.post(
    "/jobs/{name}/resume",
    status_code=202,
    operation_id="resume_job",
    tags=["jobs"],
    response_model=answers.Job,
)
async def resume(name: Name, studio: TheStudio, session: Session) -> Found:
    """Go on with a cancelled, failed or interrupted job."""
    row = _own(studio, session, name)
    if row["state"] not in ("cancelled", "failed", "interrupted"):
        raise HTTPException(409, f"the job is {row['state']}; there is nothing to resume")
    _check_room(studio, session)
    studio.database.requeue(name)
    return _told(studio, session, name)


# --- the shelf


@router.get("/runs", operation_id="list_runs", tags=["runs"], response_model=answers.Runs)
def runs(
    studio: TheStudio,
    session: Session,
    q: Annotated[str, Query(max_length=200)] = "",
    verb: Annotated[str, Query(max_length=30)] = "",
    method: Annotated[str, Query(max_length=64)] = "",
    backbone: Annotated[str, Query(max_length=64)] = "",
    favourite: bool | None = None,
    shared: bool | None = None,
    deleted: bool = False,
    sort: Literal["created", "-created", "title", "-title"] = "-created",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> Found:
    """Finished runs that this session may see."""
    filters = {"verb": verb, "method": method, "backbone": backbone, "q": q, "favourite": favourite}
    where, values = _where(session, filters, shared=shared, deleted=deleted)
    order = {"created": "number", "title": "title COLLATE NOCASE"}[sort.lstrip("-")]
    way = "DESC" if sort.startswith("-") else "ASC"
    rows = studio.database.rows(
        f"SELECT * FROM runs WHERE {where} ORDER BY {order} {way}, number DESC LIMIT ? OFFSET ?",
        [*values, limit, offset],
    )
    total = studio.database.count(f"SELECT count(*) FROM runs WHERE {where}", values)
    return {"total": total, "runs": [shelf.entry(row, session) for row in rows]}


def _where(
    session: str, given: dict[str, Any], *, shared: bool | None, deleted: bool
) -> tuple[str, list[Any]]:
    """Return an SQL condition with placeholders, and their values."""
    parts: list[str] = ["state = 'finished'"]
    values: list[Any] = []
    others = "(session != ? AND shared = 1 AND deleted IS NULL)"
    if deleted:
        parts.append("session = ? AND deleted IS NOT NULL")
        values.append(session)
    else:
        whose = {None: f"(session = ? OR {others})", True: others, False: "session = ?"}[shared]
        parts += ["deleted IS NULL", whose]
        values += [session] * whose.count("?")
    for name in ("verb", "method", "backbone"):
        if given[name]:
            parts.append(f"{name} = ?")
            values.append(given[name])
    if given["favourite"] is not None:
        parts.append("favourite = ?")
        values.append(int(given["favourite"]))
    for word in given["q"].split()[:10]:
        text = re.sub(r"([%_~])", r"~\1", word)
        names = ("title", "subject", "note", "method")
        parts.append("(" + " OR ".join(f"{name} LIKE ? ESCAPE '~'" for name in names) + ")")
        values += [f"%{text}%"] * len(names)
    return " AND ".join(parts), values


@router.get("/runs/{name}", operation_id="get_run", tags=["runs"], response_model=answers.RunDetail)
def run(name: Name, studio: TheStudio, session: Session) -> Found:
    """Everything that is known of one run."""
    row = _seen(studio, session, name)
    return shelf.detail(studio.run_folder(name), row, session, studio.database)


@router.patch("/runs/{name}", operation_id="change_run", tags=["runs"], response_model=answers.Run)
async def change(
    name: Name, changes: requests.RunChange, studio: TheStudio, session: Session
) -> Found:
    """Change a run's title, note, star or sharing."""
    row = _own(studio, session, name)
    fields = {key: value for key, value in changes.model_dump(exclude_unset=True).items()
             if value is not None}  # fmt: skip
    if "title" in fields:
        fields["title"] = fields["title"] or row["subject"]
    if fields:
        named = {key: int(value) if isinstance(value, bool) else value
                 for key, value in fields.items()}  # fmt: skip
        studio.database.update_run(name, **named)
    return _changed(studio, session, name)


@router.put(
    "/runs/{name}/mark", operation_id="mark_picture", tags=["runs"], response_model=answers.Marked
)
async def mark(name: Name, given: requests.Mark, studio: TheStudio, session: Session) -> Found:
    """Like or dislike a picture of a run: what ``taste: marks`` learns from."""
    row = _seen(studio, session, name)
    if given.index >= row["num_images"]:
        raise NotThere(f"no picture {given.index} in run {name}")
    studio.database.mark(session, name, given.index, given.mark)
    return {"run": name, **given.model_dump()}


@router.delete("/runs/{name}", operation_id="delete_run", tags=["runs"], response_model=answers.Run)
async def discard(name: Name, studio: TheStudio, session: Session) -> Found:
    """Put a run into the trash; it can be restored."""
    if _own(studio, session, name)["state"] in OPEN:
        raise HTTPException(409, "the job is not over; cancel it first")
    studio.database.update_run(name, deleted=time.time())
    return _changed(studio, session, name)


@router.post(
    "/runs/{name}/restore", operation_id="restore_run", tags=["runs"], response_model=answers.Run
)
async def restore(name: Name, studio: TheStudio, session: Session) -> Found:
    """Take a run out of the trash."""
    _own(studio, session, name)
    studio.database.update_run(name, deleted=None)
    return _changed(studio, session, name)


@router.delete("/trash", operation_id="empty_trash", tags=["runs"], response_model=answers.Emptied)
def empty(studio: TheStudio, session: Session) -> Found:
    """Delete what this session has thrown away, for good."""
    return {"removed": studio.empty_trash(session)}


@router.get(
    "/runs/{name}/files/{file:path}",
    response_class=FileResponse,
    operation_id="get_file",
    tags=["runs"],
)
def file(name: Name, file: str, studio: TheStudio, session: Session) -> Response:
    """One of a run's files: pictures, plots, report, concept, trace."""
    row = _seen(studio, session, name)
    path = allowed_file(studio.run_folder(name), file)
    if path is None:
        raise NotThere(f"no such file of run {name}")
    done = row["state"] == "finished"
    headers = {"cache-control": "private, max-age=86400" if done else "no-store"}
    if path.suffix == ".html":
        headers["content-security-policy"] = REPORT_POLICY
    if path.suffix == ".safetensors":
        headers["content-disposition"] = f'attachment; filename="{path.name}"'
    return FileResponse(path, media_type=TYPES[path.suffix], headers=headers)


@router.get("/runs/{name}/map", operation_id="get_map", tags=["runs"], response_model=answers.Map)
def map_(name: Name, studio: TheStudio, session: Session) -> Found:
    """Coordinates for a chart of an exploration, of a running one too."""
    _seen(studio, session, name)
    folder = studio.run_folder(name)
    if not (folder / "baseline.safetensors").exists():
        raise NotThere(f"no map of run {name}")
    return shelf.map_of(folder, name)


@router.get(
    "/runs/{name}/curve", operation_id="get_curve", tags=["runs"], response_model=answers.Curve
)
def curve(name: Name, studio: TheStudio, session: Session) -> Found:
    """Readings by step, of a running one too."""
    _seen(studio, session, name)
    return shelf.curve_of(studio.run_folder(name))


@router.get(
    "/runs/{name}/lineage",
    operation_id="get_lineage",
    tags=["runs"],
    response_model=answers.Lineage,
)
def lineage(name: Name, studio: TheStudio, session: Session) -> Found:
    """What a run comes from, and what came from it."""
    _seen(studio, session, name)
    return shelf.lineage(studio.database, name, session)


@router.post(
    "/runs/{name}/continue",
    status_code=202,
    operation_id="continue_run",
    tags=["jobs"],
    response_model=answers.Job,
)
async def go_on(name: Name, wish: requests.Continue, studio: TheStudio, session: Session) -> Found:
    """Begin a new exploration where this one was, with what is to change."""
    row = _seen(studio, session, name)
    request = exports.continued(studio.run_folder(name), row, wish)
    return _queued(studio, session, request)


@router.get(
    "/runs/{name}/export", response_class=Response, operation_id="export_concept", tags=["runs"]
)
def export(
    name: Name,
    studio: TheStudio,
    session: Session,
    format: Literal["common", "diffusers", "a1111", "comfyui", "sdxl", "kohya"] = "common",
    token: Annotated[str, Query(max_length=64, pattern=r"^(<?[A-Za-z0-9_-]{1,60}>?)?$")] = "",
    index: Annotated[int | None, Query(ge=0, lt=100_000)] = None,
) -> Response:
    """A concept's file as another tool reads it, or a zip of several."""
    _seen(studio, session, name)
    file, data = exports.exported(studio.run_folder(name), format, token or None, index)
    kind = "application/zip" if file.endswith(".zip") else "application/octet-stream"
    headers = {"content-disposition": f'attachment; filename="{file}"'}
    return Response(data, media_type=kind, headers=headers)


@router.get(
    "/runs/{name}/zip",
    response_class=Response,
    responses={200: {"content": {"application/zip": {}}, "description": "The run's files."}},
    operation_id="download_run",
    tags=["runs"],
)
def whole(name: Name, studio: TheStudio, session: Session) -> Response:
    """All files of a run as a ZIP archive."""
    row = _seen(studio, session, name)
    stem = re.sub(r"[^A-Za-z0-9 _-]+", "_", row["title"]).strip(" _") or name
    headers = {"content-disposition": f'attachment; filename="{stem}.zip"'}
    data = exports.zipped(studio.run_folder(name), stem)
    return Response(data, media_type="application/zip", headers=headers)


# --- quick pictures


@router.post(
    "/sketch",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "A picture."}},
    operation_id="draw_sketch",
    tags=["jobs"],
)
async def sketch(
    request: requests.SketchRequest,
    studio: TheStudio,
    session: Session,
    lane: Annotated[Literal["a", "b", "c", "d"], Query()] = "a",
) -> Response:
    """Draw one low-step preview without saving it."""
    data = await studio.sketches.draw(request, session, lane)
    return Response(data, media_type="image/png")


# --- uploads


@router.post(
    "/uploads",
    status_code=201,
    operation_id="create_upload",
    tags=["uploads"],
    response_model=answers.Upload,
)
def upload(file: Annotated[UploadFile, File()], studio: TheStudio, session: Session) -> Found:
    """Upload a picture, or a concept of another tool."""
    studio.check_disk()
    name = file.filename or "unnamed"
    row = uploads.keep(studio.folder, studio.database, session, name, file.file)
    return _upload(row)


@router.get(
    "/uploads", operation_id="list_uploads", tags=["uploads"], response_model=answers.Uploads
)
def uploaded(studio: TheStudio, session: Session) -> Found:
    """This session's uploads, newest first."""
    return {"uploads": [_upload(row) for row in studio.database.uploads(session)]}


@router.get(
    "/uploads/{name}", operation_id="get_upload", tags=["uploads"], response_model=answers.Upload
)
def one_upload(name: Name, studio: TheStudio, session: Session) -> Found:
    """One upload."""
    return _upload(_brought(studio, session, name))


@router.get(
    "/uploads/{name}/picture",
    response_class=FileResponse,
    operation_id="get_upload_picture",
    tags=["uploads"],
)
def uploaded_picture(name: Name, studio: TheStudio, session: Session) -> Response:
    """The picture, as we wrote it: a PNG."""
    row = _brought(studio, session, name)
    if row["kind"] != "picture":
        raise NotThere(f"upload {name} is no picture")
    path = uploads.file_of(studio.folder, row)
    return FileResponse(path, media_type="image/png", headers={"cache-control": "private"})


@router.delete("/uploads/{name}", status_code=204, operation_id="delete_upload", tags=["uploads"])
def forget(name: Name, studio: TheStudio, session: Session) -> Response:
    """Remove an upload."""
    uploads.remove(studio.folder, studio.database, _brought(studio, session, name))
    return Response(status_code=204)


@router.post(
    "/recall", operation_id="recall_picture", tags=["uploads"], response_model=answers.Recalled
)
def recall(file: Annotated[UploadFile, File()], studio: TheStudio, session: Session) -> Found:
    """Read how a picture was made from its metadata; nothing is saved."""
    return uploads.recall_of(studio.folder, file.filename or "the picture", file.file)


# --- shared


def _queued(studio: Studio, session: str, request: Any) -> Found:
    _check_room(studio, session)
    studio.check_disk()
    row, edges = studio.arguments.row_of(request, session)
    row["id"] = new_id()
    studio.database.add_run(row, edges)
    return _told(studio, session, row["id"])


def _check_room(studio: Studio, session: str) -> None:
    count = studio.database.num_jobs
    if count(["queued"], session) >= PER_SESSION or count(["queued"]) >= IN_ALL:
        text = f"expected at most {PER_SESSION} queued jobs of one session and {IN_ALL} in all"
        raise HTTPException(429, f"{text}; wait for some", headers={"retry-after": "10"})


def _told(studio: Studio, session: str, name: str) -> Found:
    """Tell a session's tabs of a new job, start it if nothing runs, and return it."""
    studio.queue.publish("queued", name)
    studio.queue.pump()
    return studio.queue.entry(_own(studio, session, name))


def _changed(studio: Studio, session: str, name: str) -> Found:
    studio.events.publish(session, "changed", {"run": name, "job": name})
    return shelf.entry(_own(studio, session, name), session)


def _own(studio: Studio, session: str, name: str) -> Row:
    row = studio.database.run(name)
    if row is None or row["session"] != session:
        raise NotThere(f"no job or run {name}")
    return row


def _seen(studio: Studio, session: str, name: str) -> Row:
    row = studio.database.run(name)
    if row is None or not shelf.visible(row, session):
        raise NotThere(f"no run {name}")
    return row


def _brought(studio: Studio, session: str, name: str) -> Row:
    row = studio.database.upload(session, name)
    if row is None:
        raise NotThere(f"no upload {name}")
    return row


def _upload(row: Row) -> Found:
    shown = {key: row[key] for key in ("id", "kind", "name", "bytes", "width", "height", "created")}
    url = f"/api/v1/uploads/{row['id']}/picture" if row["kind"] == "picture" else None
    return {**shown, "url": url, "recipe": bool(row["recipe"])}
