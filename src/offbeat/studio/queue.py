"""The job queue: give jobs to the worker in turn; pass its messages to the database and tabs.

Everything here happens on the event loop but reading the worker's lines; those are handed over to
it. The list in sqlite is the truth: a server that starts again reads from it what was under way.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from offbeat.studio import shelf
from offbeat.studio.database import Database, Row
from offbeat.studio.events import Events

log = logging.getLogger("offbeat.studio")
MAX_ATTEMPTS = 3
"""A job that was under way when the server died this often does not start by itself again."""
PATIENCE = 20.0
"""Seconds that a cancelled job has to reach its next step."""
RESUMABLE = ("explore", "fuse", "sweep", "grid", "dream", "paint")
"""Calls that go on with what a run folder holds; the others start anew, and take seconds."""


class Queue:
    """Jobs of all sessions, one at a time."""

    def __init__(
        self, database: Database, events: Events, folder: Path, *, device: str, warm: str
    ) -> None:
        self.database, self.events, self.folder = database, events, folder
        self.device, self._warm = device, warm
        self.progress: dict[str, dict[str, Any]] = {}
        """Of the running job: stage, done, total, seconds left."""
        self.ready = asyncio.Event()
        """Set when the worker has loaded its checkpoint."""
        self.card: dict[str, Any] = {}
        """What that says of itself, then."""
        self._arguments: Any = None
        self._process: subprocess.Popen[str] | None = None
        self._running: Row | None = None
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- from start to end

    def start(self, arguments: Any) -> None:
        """Requeue jobs that were running, and begin; ``arguments`` turns a job into a call."""
        self._arguments = arguments
        for row in self.database.rows("SELECT * FROM runs WHERE state = 'running'"):
            if row["attempts"] >= MAX_ATTEMPTS:
                error = json.dumps(
                    {"kind": "Interrupted", "error": "the studio ended while it ran"}
                )
                self.database.update_run(row["id"], state="interrupted", error=error)
            else:  # it keeps its number, so it is first
                self.database.update_run(row["id"], state="queued")
        self.pump()

    def close(self) -> None:
        """End the worker; its job continues at the next start."""
        self._closing = True
        process = self._process
        if process is not None:
            with suppress(OSError):
                if process.stdin is not None:
                    process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)

    def spawn(self) -> None:
        """Start the worker process and let it load its checkpoint."""
        self._loop = asyncio.get_running_loop()
        env = {**os.environ, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "offbeat.studio.worker", self.device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=self.folder,  # so that what runs say of each other holds where the folder goes
            env=env,
        )
        threading.Thread(target=self._listen, args=[self._process], daemon=True).start()
        self._tell({"do": "warm", "backbone": self._warm})

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert self._loop is not None
        for line in process.stdout:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._heard, json.loads(line))
        process.wait()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._died, process)
        process.stdout.close()
        if process.stdin is not None:
            with suppress(OSError):  # what was not read any more
                process.stdin.close()

    def _tell(self, message: Mapping[str, Any]) -> None:
        process = self._process
        if process is not None and process.stdin is not None:
            with suppress(OSError):  # it has died; _died says so
                process.stdin.write(json.dumps(message) + "\n")
                process.stdin.flush()

    # --- what people ask

    def pump(self) -> None:
        """Start the next job if nothing runs."""
        if self._running is not None or self._closing:
            return
        if self._arguments is None or self._process is None:
            return
        row = self.database.next_queued()
        if row is None:
            return
        try:
            call, arguments = self._arguments(row)
        except Exception as error:  # what it names was removed meanwhile
            self._end(row, "failed", kind=type(error).__name__, error=str(error))
            self._loop.call_soon(self.pump) if self._loop else None
            return
        out = self.folder / "runs" / row["id"]
        if call not in RESUMABLE and out.exists():
            shutil.rmtree(out)
        arguments["out"] = f"runs/{row['id']}"
        if call in RESUMABLE:
            arguments["resume"] = (out / "request.json").exists()
        changes = {"state": "running", "started": time.time(), "attempts": row["attempts"] + 1}
        self.database.update_run(row["id"], **changes)
        self._running = {**row, **changes}
        self._tell({"do": "run", "job": row["id"], "call": call, "arguments": arguments})
        self.publish("started", row["id"])

    def cancel(self, row: Row) -> None:
        """Take a job out of the queue, or stop it at its next step."""
        if row["state"] == "queued":
            self._end(row, "cancelled")
        elif self._running is not None and self._running["id"] == row["id"]:
            self._tell({"do": "cancel", "job": row["id"]})
            if self._loop is not None:
                self._loop.call_later(PATIENCE, self._end_by_force, self._running)

    def _end_by_force(self, running: Row) -> None:
        """End the worker if the cancelled job still runs; a job that began since is left alone."""
        if self._running is running and self._process is not None:
            running["cancelled"] = True
            self._process.kill()

    # --- what the worker says

    def _heard(self, message: dict[str, Any]) -> None:
        job, event = message.pop("job"), message.pop("event")
        if event == "warm":
            self.card = message["card"]
            self.ready.set()
            return
        row = self._running
        if row is None or row["id"] != job:
            return
        if event in ("finished", "failed", "cancelled"):
            self._running = None
            self._end(row, event, **message)
            self.pump()
            return
        if event == "progress":
            self.progress[job] = message
        self._forward(row, event, message)

    def _forward(self, row: Row, event: str, message: dict[str, Any]) -> None:
        job = row["id"]
        if event == "picture":
            message = shelf.picture_of(job, message["file"], message["step"])
        elif event == "map":
            message = {"url": f"/api/v1/runs/{job}/map"}
        elif event == "point":
            message = {
                **shelf.point_of(message["probe"]),
                "step": message["step"],
                "trial": message["trial"],
            }
        self.events.publish(row["session"], event, {"job": job, **message})

    def _died(self, process: subprocess.Popen[str]) -> None:
        if self._closing or process is not self._process:
            return
        self.ready.clear()
        self._process = None
        row, self._running = self._running, None
        log.error("the worker ended with %s", process.returncode)
        if row is not None:
            if row.get("cancelled"):
                self._end(row, "cancelled")
            else:
                said = "the process that drew it ended, perhaps for lack of memory"
                self._end(row, "failed", kind="Died", error=said)
        if self._loop is not None:
            self._loop.call_later(1.0, self._again)

    def _again(self) -> None:
        if not self._closing:
            self.spawn()
            self.pump()

    def _end(self, row: Row, state: str, **data: Any) -> None:
        changes: dict[str, Any] = {"state": state, "ended": time.time()}
        if state == "failed":
            said = {"kind": data["kind"], "error": without_paths(data["error"])}
            changes["error"] = json.dumps(said)
        elif state == "finished":
            changes |= data
        self.progress.pop(row["id"], None)
        self.database.update_run(row["id"], **changes)
        self.publish(state, row["id"])

    def publish(self, event: str, job: str) -> None:
        """Tell a job's session its new state."""
        row = self.database.run(job)
        if row is None:
            return
        data = {"job": job, "state": row["state"], "entry": self.entry(row)}
        if event == "finished":
            data["run"] = shelf.entry(row, row["session"])
        self.events.publish(row["session"], event, data)

    def _position(self, row: Row) -> int | None:
        """Return how many queued jobs run before this one."""
        order = self.database.queue_order()
        return order.index(row["id"]) if row["id"] in order else None

    def entry(self, row: Row) -> dict[str, Any]:
        """Return a job in the API's form."""
        now = self.progress.get(row["id"], {})
        return {
            **{name: row[name] for name in _SHOWN},
            "position": self._position(row) if row["state"] == "queued" else None,
            "stage": now.get("stage"),
            "done": now.get("done"),
            "total": now.get("total"),
            "seconds_left": now.get("seconds_left"),
            "pictures": shelf.pictures(self.folder / "runs" / row["id"], row["id"]),
        }


_SHOWN = (
    "id", "verb", "title", "subject", "state", "created", "started", "ended", "error", "attempts",
    "request",
)  # fmt: skip
_PATH = re.compile(r"(?:~|[A-Za-z]:|(?<![\w.}]))(?:[/\\][^\s/\\:;,'\"()]+){2,}[/\\]?")


def without_paths(text: str) -> str:
    """Return a message with every path in it cut to its last part.

    >>> without_paths("/home/ann/studio/runs/ab/request.json: no such file; see docs/studio.md")
    'request.json: no such file; see docs/studio.md'
    """
    return _PATH.sub(lambda found: re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], text)
