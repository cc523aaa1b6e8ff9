"""The studio's SQLite database: jobs, runs, uploads, and the key that signs sessions.

Pictures and concepts are in run folders; this is only the list of them. One connection, one lock:
every statement takes microseconds, and threads take turns.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Row = dict[str, Any]

SCHEMA = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
  id TEXT PRIMARY KEY, session TEXT NOT NULL, number INTEGER NOT NULL,
  verb TEXT NOT NULL, request TEXT NOT NULL, title TEXT NOT NULL, subject TEXT NOT NULL,
  method TEXT NOT NULL, backbone TEXT NOT NULL, state TEXT NOT NULL,
  created REAL NOT NULL, started REAL, ended REAL, attempts INTEGER NOT NULL DEFAULT 0,
  error TEXT, note TEXT NOT NULL DEFAULT '', favourite INTEGER NOT NULL DEFAULT 0,
  shared INTEGER NOT NULL DEFAULT 0, deleted REAL,
  num_images INTEGER NOT NULL DEFAULT 0, num_concepts INTEGER NOT NULL DEFAULT 0,
  in_words TEXT NOT NULL DEFAULT '', cover TEXT
);
CREATE INDEX IF NOT EXISTS runs_of ON runs (session, state, created);
CREATE INDEX IF NOT EXISTS runs_queue ON runs (state, number);
CREATE TABLE IF NOT EXISTS edges (
  source TEXT NOT NULL, target TEXT NOT NULL, how TEXT NOT NULL, UNIQUE (source, target, how)
);
CREATE INDEX IF NOT EXISTS edges_of ON edges (target);
CREATE TABLE IF NOT EXISTS uploads (
  id TEXT PRIMARY KEY, session TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
  bytes INTEGER NOT NULL, width INTEGER, height INTEGER, recipe INTEGER NOT NULL,
  created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS marks (
  session TEXT NOT NULL, run TEXT NOT NULL, picture INTEGER NOT NULL, mark INTEGER NOT NULL,
  PRIMARY KEY (session, run, picture)
);
CREATE INDEX IF NOT EXISTS uploads_of ON uploads (session, created);
"""
OPEN = ("queued", "running")
"""States of a job that is not over."""


def new_id() -> str:
    """Return an identifier that nobody can guess: 16 hexadecimal digits."""
    return secrets.token_hex(8)


class Database:
    """The database of a studio; safe to use from every thread."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        with self._lock:
            self._connection.executescript(_TABLES)
        path.chmod(0o600)  # the secret that signs sessions is in it

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of a query; ``sql`` never contains text of a request."""
        with self._lock:
            return [dict(row) for row in self._connection.execute(sql, values)]

    def count(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Return the one number that a query finds."""
        with self._lock:
            (number,) = self._connection.execute(sql, values).fetchone()
        return int(number or 0)

    # --- the studio's own

    def secret(self) -> bytes:
        """Return the key that signs sessions; made once for this folder."""
        with self._write() as file:
            file.execute("INSERT OR IGNORE INTO meta VALUES ('secret', ?)", [secrets.token_hex(32)])
        return bytes.fromhex(self.rows("SELECT value FROM meta WHERE name = 'secret'")[0]["value"])

    # --- runs

    def add_run(self, row: Row, edges: Sequence[tuple[str, str]]) -> None:
        """Put a job at the end of the queue; ``edges`` are pairs of a run and how it is used."""
        row = {**row, "request": json.dumps(row["request"]), "state": "queued"}
        row["created"] = time.time()
        with self._write() as file:
            row["number"] = self.count("SELECT max(number) FROM runs") + 1
            names = ", ".join(row)
            marks = ", ".join("?" * len(row))
            file.execute(f"INSERT INTO runs ({names}) VALUES ({marks})", list(row.values()))
            for source, how in edges:
                file.execute(
                    "INSERT OR IGNORE INTO edges VALUES (?, ?, ?)", [source, row["id"], how]
                )

    def add_finished(self, row: Row) -> None:
        """Put a run on the shelf that was made elsewhere."""
        row = {**row, "request": json.dumps(row["request"])}
        with self._write() as file:
            row["number"] = self.count("SELECT max(number) FROM runs") + 1
            names, marks = ", ".join(row), ", ".join("?" * len(row))
            file.execute(f"INSERT INTO runs ({names}) VALUES ({marks})", list(row.values()))

    def run(self, run_id: str) -> Row | None:
        """Return a job or run of any session."""
        rows = self.rows("SELECT * FROM runs WHERE id = ?", [run_id])
        return _read(rows[0]) if rows else None

    def update_run(self, run_id: str, **changes: Any) -> None:
        """Change some columns; their names come from our code, never from a request."""
        names = ", ".join(f"{name} = ?" for name in changes)
        with self._write() as file:
            file.execute(f"UPDATE runs SET {names} WHERE id = ?", [*changes.values(), run_id])

    def requeue(self, run_id: str) -> None:
        """Put a job at the end of the queue again."""
        with self._write() as file:
            number = self.count("SELECT max(number) FROM runs") + 1
            file.execute(
                "UPDATE runs SET state = 'queued', number = ?, started = NULL, ended = NULL, "
                "error = NULL WHERE id = ?",
                [number, run_id],
            )

    def next_queued(self) -> Row | None:
        """Return the job that is first in the queue.

        Sessions take turns: whoever has run least recently goes first, so that twenty jobs of one
        do not keep another waiting.
        """
        order = self.queue_order()
        return self.run(order[0]) if order else None

    def queue_order(self) -> list[str]:
        """Return the identifiers of the queued jobs as they will run if nothing is added."""
        queued = self.rows("SELECT id, session FROM runs WHERE state = 'queued' ORDER BY number")
        started = {
            row["session"]: row["started"] or 0.0
            for row in self.rows("SELECT session, max(started) AS started FROM runs "
                                 "WHERE state != 'queued' GROUP BY session")
        }  # fmt: skip
        order: list[str] = []
        now = time.time()
        while queued:
            job = min(queued, key=lambda row: started.get(row["session"], 0.0))
            queued.remove(job)
            order.append(job["id"])
            started[job["session"]] = now + len(order)
        return order

    def jobs(self, session: str, states: Sequence[str], limit: int = 200) -> list[Row]:
        """Return a session's jobs in any of these states, newest first."""
        marks = ", ".join("?" * len(states))
        rows = self.rows(
            f"SELECT * FROM runs WHERE session = ? AND state IN ({marks}) "
            "ORDER BY number DESC LIMIT ?",
            [session, *states, limit],
        )
        return [_read(row) for row in rows]

    def num_jobs(self, states: Sequence[str], session: str | None = None) -> int:
        """Return how many jobs are in any of these states, of one session or of all."""
        marks = ", ".join("?" * len(states))
        of = "" if session is None else " AND session = ?"
        values = [*states, *([] if session is None else [session])]
        return self.count(f"SELECT count(*) FROM runs WHERE state IN ({marks}){of}", values)

    def upload_bytes(self) -> int:
        """Return how much all uploads take."""
        return self.count("SELECT sum(bytes) FROM uploads")

    def edges(self, run_id: str) -> list[tuple[str, str, str]]:
        """Return what a run was made from, and what was made from it: source, target, how."""
        rows = self.rows("SELECT * FROM edges WHERE source = ? OR target = ?", [run_id, run_id])
        return [(row["source"], row["target"], row["how"]) for row in rows]

    def forget_run(self, run_id: str) -> None:
        """Remove a run from the list for good."""
        with self._write() as file:
            file.execute("DELETE FROM runs WHERE id = ?", [run_id])
            file.execute("DELETE FROM edges WHERE source = ? OR target = ?", [run_id, run_id])
            file.execute("DELETE FROM marks WHERE run = ?", [run_id])

    # --- what somebody likes

    def mark(self, session: str, run_id: str, picture: int, mark: int) -> None:
        """Note that a session likes a picture of a run (1), dislikes it (-1), or neither (0)."""
        with self._write() as file:
            file.execute(
                "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?)", [session, run_id, picture, mark]
            )

    def marks(self, session: str) -> dict[str, dict[int, int]]:
        """Return a session's marks other than 0: run to picture to mark, in a fixed order."""
        query = "SELECT * FROM marks WHERE session = ? AND mark != 0 ORDER BY run, picture"
        marks: dict[str, dict[int, int]] = {}
        for row in self.rows(query, [session]):
            marks.setdefault(row["run"], {})[row["picture"]] = row["mark"]
        return marks

    # --- uploads

    def add_upload(self, row: Row) -> None:
        """Remember an upload."""
        with self._write() as file:
            names, marks = ", ".join(row), ", ".join("?" * len(row))
            file.execute(f"INSERT INTO uploads ({names}) VALUES ({marks})", list(row.values()))

    def uploads(self, session: str) -> list[Row]:
        """Return a session's uploads, newest first."""
        return self.rows("SELECT * FROM uploads WHERE session = ? ORDER BY created DESC", [session])

    def upload(self, session: str, upload_id: str) -> Row | None:
        """Return one of a session's uploads."""
        rows = self.rows("SELECT * FROM uploads WHERE id = ? AND session = ?", [upload_id, session])
        return rows[0] if rows else None

    def forget_upload(self, upload_id: str) -> None:
        """Remove an upload from the list."""
        with self._write() as file:
            file.execute("DELETE FROM uploads WHERE id = ?", [upload_id])


def _read(row: Row) -> Row:
    error = row["error"]
    return {
        **row,
        "request": json.loads(row["request"]),
        "error": json.loads(error) if error else None,
    }
