"""The worker process: draws one job after another; messages are lines of JSON.

A process of its own, so that the server answers while a search runs, a fault of a checkpoint ends a
job and not the studio, and a job that does not listen can be ended. It lives as long as the server:
when its input ends, it does.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO

import offbeat
from offbeat.core.threads import few_threads
from offbeat.errors import OffbeatError
from offbeat.files.disk import plain
from offbeat.runs.map import Region
from offbeat.verbs.walk import walk

log = logging.getLogger("offbeat.studio.worker")
MAX_LOADED = 2
"""Checkpoints in memory at once."""
MIN_GAP = 0.1
"""Seconds between two reports of progress."""
CARD = (
    "height", "width", "concepts", "subjects", "max_prompt_tokens", "prompt_template", "methods"
)  # fmt: skip
"""What the server is told of its checkpoint, which it does not load itself."""
READINGS = ("step", "trial", "loss", "distance", "quantile", "seen", "anchor_cosine", "branch")


class Cancelled(BaseException):
    """The job was cancelled; raised where it reports progress, so between two steps."""


class Worker:
    """Runs jobs with offbeat's public functions and reports progress."""

    def __init__(self, out: TextIO, device: str) -> None:
        self.out, self.device = out, device
        self.models: dict[str, Any] = {}
        self.cancelled: set[str] = set()
        self._told = 0.0
        self._writing = threading.Lock()

    def tell(self, job: str, event: str, **data: Any) -> None:
        """Write one line to the server."""
        line = json.dumps({"job": job, "event": event, **data}, allow_nan=False)
        with self._writing:
            self.out.write(line + "\n")
            self.out.flush()

    def model(self, source: str) -> Any:
        """Return a checkpoint, loaded now or before."""
        if source not in self.models:
            while len(self.models) >= MAX_LOADED:
                del self.models[next(iter(self.models))]
            self.models[source] = offbeat.load_backbone(source, device=self.device)
        self.models[source] = self.models.pop(source)  # the last one used goes last
        return self.models[source]

    def run(self, job: Mapping[str, Any]) -> None:
        """Run one job and report how it ended."""
        name = str(job["job"])
        try:
            self.tell(name, "finished", **self._made(job))
        except Cancelled:
            self.tell(name, "cancelled")
        except OffbeatError as error:
            self.tell(name, "failed", kind=type(error).__name__, error=str(error))
        except MemoryError:
            self.tell(name, "failed", kind="MemoryError", error="not enough memory for this")
        except Exception as error:
            log.exception("job %s", name)
            about = f"the studio failed at this ({type(error).__name__}); its log says where"
            self.tell(name, "failed", kind="Fault", error=about)

    def _made(self, job: Mapping[str, Any]) -> dict[str, Any]:

        name, arguments = str(job["job"]), dict(job["arguments"])
        args, source = arguments.pop("args", []), arguments.pop("backbone")
        self._check(name)
        if "avoid" in arguments:
            arguments["avoid"] = [
                part if isinstance(part, str) else Region(**part) for part in arguments["avoid"]
            ]
        model = self.model(source)

        def observe(stage: str, done: int, total: int, values: Mapping[str, Any]) -> None:
            self._check(name)
            self._report(name, stage, done, total, values)

        if job["call"] != "import_concept":
            arguments["observe"] = observe
        with few_threads(model):
            verb = walk if job["call"] == "walk" else getattr(offbeat, job["call"])
            made = verb(*args, backbone=model, **arguments)
        covers = [file for file in made.files if file.startswith("images/")]
        return {
            "in_words": str(made.summary.get("in_words", "")),
            "num_images": len(made.images),
            "num_concepts": len(made.concepts),
            "cover": min(covers, default=None),
        }

    def _check(self, job: str) -> None:
        if job in self.cancelled:
            raise Cancelled

    def _report(
        self, job: str, stage: str, done: int, total: int, values: Mapping[str, Any]
    ) -> None:
        step = values.get("step")
        count = None if step is None else int(step) + 1
        if "files" in values:  # pictures on the way: no stage that people wait for
            for file in values["files"]:
                self.tell(job, "picture", file=file, step=values.get("at"))
            return
        if values.get("measured"):
            self.tell(job, "map")
        if probe := values.get("probe"):
            self.tell(job, "point", step=count, trial=values.get("trial", 0), probe=_plain(probe))
        if verdict := values.get("verdict"):
            trial = values.get("trial", 0)
            self.tell(job, "verdict", step=count, trial=trial, **_plain(verdict))
        now = time.monotonic()
        if now - self._told < MIN_GAP and done < total:
            return
        self._told = now
        shown = {name: values[name] for name in READINGS if values.get(name) is not None}
        if count is not None:
            shown["step"] = count
        self.tell(
            job,
            "progress",
            stage=stage,
            done=done,
            total=total,
            seconds_left=_plain(values.get("seconds_left")),
            values=_plain(shown),
        )


def _plain(value: Any) -> Any:

    return plain(value)


def main() -> None:
    """Serve the parent process until its pipe closes."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not be taken for a message
    worker = Worker(out, device=sys.argv[1])
    jobs: queue.Queue[Mapping[str, Any]] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if message["do"] == "cancel":
                worker.cancelled.add(message["job"])
            else:
                jobs.put(message)
        os._exit(0)  # the server is gone; run folders are whole at every moment

    threading.Thread(target=listen, daemon=True).start()
    while True:
        message = jobs.get()
        if message["do"] == "warm":
            card = {}
            try:
                card = dict(worker.model(message["backbone"]).card)
            except Exception:
                log.exception("loading %s", message["backbone"])
            worker.tell("", "warm", card={name: card[name] for name in CARD if name in card})
        else:
            worker.run(message)
            worker.cancelled.discard(message["job"])


if __name__ == "__main__":
    main()
