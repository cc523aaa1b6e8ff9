"""What every command shows: one progress line, warnings, errors without a traceback."""

from __future__ import annotations

import re
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
        return ""
    probe = values.get("probe") or values
    distance = probe.get("distance_median", values["distance"])
    parts = [f"distance {distance:.1f}", f"quantile {probe['quantile']:.4f}"]
    if values["branch"] == "anchor":
        parts.append("pulled back")
    if verdict:
        parts.append(f"judge: {verdict['answer']} ({verdict['probability']:.2f})")
    if left := values.get("seconds_left"):
        parts.append(f"at most {left:.0f} s left")
    return "  " + "  ".join(parts)
