"""What every command shows: one progress line, warnings, errors without a traceback."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

MAX_IMAGES = 256
"""Pictures of one command: all are in memory at once."""


def check_num_images(num_images: int) -> None:
    """Refuse more pictures than a command draws.

    Raises:
        ConfigError: If there are more than 256.
    """
    from offbeat.errors import ConfigError

    if num_images > MAX_IMAGES:
        raise ConfigError(
            f"--num-images: expected 1 to {MAX_IMAGES}, got {num_images}; draw the others with "
            "another --seed"
        )


def settings_of(given: list[str] | None) -> dict[str, Any]:
    """Return what ``--set NAME=VALUE`` says; a value is read as JSON, else as text.

    Raises:
        ConfigError: If one has no ``=``, or a name is there twice.
    """
    import json

    from offbeat.errors import ConfigError

    found: dict[str, Any] = {}
    for text in given or ():
        name, sign, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not name:
            raise ConfigError(f"--set: expected NAME=VALUE, got {text!r}")
        if name in found:
            raise ConfigError(f"--set: {name} is there twice")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def weights_of(words: list[str]) -> list[tuple[str, float]]:
    """Return words with weights, of ``pig`` or ``pig=0.55``; a word alone has weight 1.

    Raises:
        VocabularyError: If a weight is no number, or only some words have one.
    """
    from offbeat.errors import VocabularyError

    found = []
    for text in words:
        word, _, weight = text.rpartition("=") if "=" in text else (text, "", "1")
        try:
            found.append((word, float(weight)))
        except ValueError as error:
            raise VocabularyError(f"{text}: expected WORD=WEIGHT, e.g. pig=0.55") from error
    weighted = sum("=" in text for text in words)
    if 0 < weighted < len(words):
        raise VocabularyError(f"words: expected a weight for each of {', '.join(words)}, or none")
    return found


def folder_for(what: str, seed: int, *, resume: bool) -> Path:
    """Return ``runs/WHAT-SEED``: a free one, or the newest to go on with."""
    name = "-".join("".join(c if c.isalnum() else " " for c in what).split()) or "run"
    first = Path("runs") / f"{name[:40]}-{seed}"
    return newest_folder(first) if resume else free_folder(first)


def free_folder(first: Path) -> Path:
    """Return ``first``, or the first of ``first-2``, ``first-3``, ... that is not there."""
    found, number = first, 1
    while found.exists():
        number += 1
        found = first.with_name(f"{first.name}-{number}")
    return found


def newest_folder(first: Path) -> Path:
    """Return the run started last among ``first``, ``first-2``, ``first-3``, ...

    Raises:
        StoreError: If there is none.
    """
    from offbeat.errors import StoreError

    number = re.compile(re.escape(first.name) + r"(-\d+)?")
    found = [
        (request.stat().st_mtime_ns, request.parent)
        for request in first.parent.glob("*/request.json")
        if number.fullmatch(request.parent.name)
    ]
    if not found:
        raise StoreError(f"{first}: no such run to resume; name its folder with --out")
    return max(found)[1]


@contextmanager
def stopped_shown(advice: str) -> Iterator[None]:
    """Turn an interrupt into one line of advice and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(file=sys.stderr)
        typer.echo(f"stopped; {advice}", err=True)
        raise typer.Exit(130) from None


@contextmanager
def resumable(folder: Path) -> Iterator[ProgressLine]:
    """Give the progress line of a run in ``folder``; an interrupt says how to go on with it."""
    progress = ProgressLine()
    again = f"to go on, add --resume --out {shlex.quote(str(folder))} to the same command"
    with stopped_shown(again):
        yield progress
    progress.close()


def show_result(summary: Mapping[str, Any], *files: Path) -> None:
    """Say what a run found, its warnings first, and where to look."""
    for warning in summary["warnings"]:
        typer.secho(f"note: {warning}", fg="yellow", err=True)
    typer.echo(summary["in_words"])
    for file in files:
        typer.echo(str(file))


@contextmanager
def errors_shown() -> Iterator[None]:
    """Turn Offbeat's and the disk's errors into one line and exit code 2, an interrupt into 130."""
    from offbeat.errors import OffbeatError

    with stopped_shown("nothing was written"):
        try:
            yield
        except (OffbeatError, OSError) as error:
            text = " ".join(str(error).split()).encode(errors="backslashreplace").decode()
            typer.echo(file=sys.stderr)
            typer.secho(f"error: {text}", fg="red", err=True)
            raise typer.Exit(2) from error


class ProgressLine:
    """One line on a terminal, a line now and then elsewhere."""

    PLAIN_EVERY = 5.0
    """Seconds between two lines where there is no terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._stage, self._last, self._width, self._done = "", 0.0, 0, 0
        self._verdict: Mapping[str, Any] | None = None

    def __call__(self, stage: str, done: int, total: int, values: Mapping[str, Any]) -> None:
        """Show how far a stage is."""
        now, new = time.monotonic(), stage != self._stage
        if new or done <= self._done:  # another stage, or another trial
            self._verdict = None
        self._verdict, self._done = values.get("verdict") or self._verdict, done
        if not self._terminal and not new and now - self._last < self.PLAIN_EVERY:
            return
        self._stage, self._last = stage, now
        text = f"{stage}: {done}/{total}{_readings(values, self._verdict)}"
        if self._terminal:
            sys.stderr.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """End the line."""
        if self._terminal and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")


def _readings(values: Mapping[str, Any], verdict: Mapping[str, Any] | None) -> str:
    if "quantile" not in values:
        return _plain_readings(values)
    probe = values.get("probe") or values
    distance = probe.get("distance_median", values["distance"])
    parts = [f"distance {distance:.1f}", f"quantile {probe['quantile']:.4f}"]
    if values["branch"] == "anchor":
        parts.append("pulled back")
    if verdict:
        sure = "" if verdict["answer"] == "unknown" else f" ({verdict['probability']:.2f})"
        parts.append(f"judge: {verdict['answer']}{sure}")
    if left := values.get("seconds_left"):
        parts.append(f"at most {left:.0f} s left")
    return "  " + "  ".join(parts)


def _plain_readings(values: Mapping[str, Any]) -> str:
    if "loss" not in values:
        return ""
    left = values.get("seconds_left")
    return f"  loss {values['loss']:.4f}" + (f"  at most {left:.0f} s left" if left else "")
