"""What every command shows: one progress line, warnings, errors without a traceback."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer


def free_folder(first: Path) -> Path:
    """Return ``first``, or the first of ``first-2``, ``first-3``, ... that is not there."""
    found, number = first, 1
    while found.exists():
        number += 1
        found = first.with_name(f"{first.name}-{number}")
    return found


@contextmanager
def errors_shown() -> Iterator[None]:
    """Turn Offbeat's errors into one line and exit code 2, an interrupt into 130."""
    from offbeat.errors import OffbeatError

    try:
        yield
    except OffbeatError as error:
        typer.echo(file=sys.stderr)
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        typer.echo(file=sys.stderr)
        typer.echo("stopped; add --resume to the same command to go on", err=True)
        raise typer.Exit(130) from None


class ProgressLine:
    """One line on a terminal, a line now and then elsewhere."""

    PLAIN_EVERY = 5.0
    """Seconds between two lines where there is no terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._stage, self._last, self._width = "", 0.0, 0

    def __call__(self, stage: str, done: int, total: int, values: Mapping[str, Any]) -> None:
        """Show how far a stage is."""
        now, new = time.monotonic(), stage != self._stage
        if not self._terminal and not new and now - self._last < self.PLAIN_EVERY:
            return
        self._stage, self._last = stage, now
        text = f"{stage}: {done}/{total}{_readings(values)}"
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


def _readings(values: Mapping[str, Any]) -> str:
    if "quantile" not in values:
        return ""
    probe = values.get("probe") or values
    distance = probe.get("distance_median", values["distance"])
    parts = [f"distance {distance:.1f}", f"quantile {probe['quantile']:.4f}"]
    if values["branch"] == "anchor":
        parts.append("pulled back")
    if verdict := values.get("verdict"):
        parts.append(f"judge: {verdict['answer']} ({verdict['probability']:.2f})")
    if left := values.get("seconds_left"):
        parts.append(f"at most {left:.0f} s left")
    return "  " + "  ".join(parts)
