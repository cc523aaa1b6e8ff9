"""What every command shows: one progress line, warnings, errors without a traceback."""

from __future__ import annotations

import re
import shlex
import signal
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

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
    from offbeat.errors import ConfigError
    from offbeat.files.disk import parse_json

    settings: dict[str, Any] = {}
    for text in given or ():
        name, sign, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not name:
            raise ConfigError(f"--set: expected NAME=VALUE, got {text!r}")
        if name in settings:
            raise ConfigError(f"--set: {name} is given twice; name it once")
        try:
            settings[name] = parse_json(value)
        except ValueError:
            settings[name] = value
    return settings


def weights_of(words: list[str]) -> list[tuple[str, float]]:
    """Return words with weights, of ``pig`` or ``pig=0.55``; a word alone has weight 1.

    Raises:
        VocabularyError: If a weight is no number, or only some words have one.
    """
    from offbeat.errors import VocabularyError

    weights = []
    for text in words:
        word, _, weight = text.rpartition("=") if "=" in text else (text, "", "1")
        try:
            weights.append((word, float(weight)))
        except ValueError as error:
            raise VocabularyError(f"{text}: expected WORD=WEIGHT, e.g. pig=0.55") from error
    weighted = sum("=" in text for text in words)
    if 0 < weighted < len(words):
        raise VocabularyError(f"words: expected a weight for each of {', '.join(words)}, or none")
    return weights


def folder_name(what: str, seed: int) -> Path:
    """Return ``runs/WHAT-SEED``, of letters and digits only."""
    name = "-".join("".join(c if c.isalnum() else " " for c in what).split()) or "run"
    return Path("runs") / f"{name[:40]}-{seed}"


def free_folder(first: Path) -> Path:
    """Return ``first``, or the first of ``first-2``, ``first-3``, ... that is not there."""
    folder, number = first, 1
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


def newest_folder(first: Path) -> Path:
    """Return the run started last among ``first``, ``first-2``, ``first-3``, ...

    Raises:
        StoreError: If there is none.
    """
    from offbeat.errors import StoreError

    number = re.compile(re.escape(first.name) + r"(-\d+)?")
    runs = [
        (request.stat().st_mtime_ns, request.parent)
        for request in first.parent.glob("*/request.json")
        if number.fullmatch(request.parent.name)
    ]
    if not runs:
        raise StoreError(f"{first}: no such run to resume; name its folder with --out")
    return max(runs)[1]


def printable(text: object) -> str:
    r"""Return a text without the characters that control a terminal; they may be a stranger's.

    Each is written as JSON does, so that JSON stays JSON.

    >>> print(printable("a \x1b[31mred\x1b[0m pig"))
    a \u001b[31mred\u001b[0m pig
    """
    kept = (c if c in "\n\t" or not _controls(c) else _escaped(c) for c in str(text))
    return "".join(kept).encode(errors="backslashreplace").decode()


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _controls(character: str) -> bool:
    """Return whether a character moves the cursor, changes colours or turns the reading order."""
    joins = character in "\u200c\u200d"  # letters of some scripts, and parts of an emoji
    return not joins and unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp")


def show_note(text: object) -> None:
    """Say what a reader must know, on the error stream."""
    typer.secho(f"note: {printable(text)}", fg="yellow", err=True)


def show_result(summary: Mapping[str, Any], *files: Path) -> None:
    """Say what a run found, its warnings first, and where to look; files not made are left out."""
    for warning in summary.get("warnings", ()):
        show_note(warning)
    if text := summary.get("in_words"):
        typer.echo(printable(text))
    for file in files:
        if file.exists():
            typer.echo(printable(file))


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


class Stop:
    """Ends a command after the step that it is at, by Ctrl-C or SIGTERM; a second one at once."""

    def __init__(self) -> None:
        self.stepping = False
        """Whether a search is between two of its steps."""
        self.asked: int | None = None
        """The signal that came, until the step ends."""

    def __call__(self, number: int, frame: object) -> None:
        """Handle a signal."""
        if not self.stepping or self.asked is not None:
            raise Stopped(number)
        self.asked = number

    def check(self) -> None:
        """End now, if a signal came during the step."""
        if self.asked is not None:
            raise Stopped(self.asked)


STOP = Stop()


@contextmanager
def signals_handled() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the command in order, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    STOP.stepping, STOP.asked = False, None
    numbers = (signal.SIGINT, signal.SIGTERM)
    # a command that a shell starts in the background ignores SIGINT, and is to go on doing so
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, STOP)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopped_shown(advice: str) -> Iterator[None]:
    """Turn an interrupt into one line of advice and exit code 130, or 143 for SIGTERM."""
    try:
        yield
    except KeyboardInterrupt as error:
        typer.echo(file=sys.stderr)
        typer.echo(f"stopped; {advice}", err=True)
        raise typer.Exit(getattr(error, "code", 130)) from None


Json = Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")]


def show_json(values: object) -> None:
    """Print JSON values for another program."""
    import json

    typer.echo(json.dumps(values, indent=2))


@contextmanager
def errors_shown() -> Iterator[None]:
    """Turn Offbeat's and the disk's errors into one line and exit code 2, an interrupt into 130."""
    from offbeat.errors import OffbeatError

    with stopped_shown("nothing was written"):
        try:
            yield
        except (OffbeatError, OSError) as error:
            text = printable(" ".join(str(error).split()))
            typer.echo(file=sys.stderr)
            typer.secho(f"error: {text}", fg="red", err=True)
            raise typer.Exit(2) from error


@contextmanager
def at_work(
    out: Path | None,
    first: Path,
    place: Callable[[], Any],
    *,
    num_images: int = 1,
    resume: bool | None = None,
) -> Iterator[dict[str, Any]]:
    """Give a command what every function that draws takes: folder, device, progress.

    Args:
        out: The run folder that was named.
        first: The run folder if none was; a number is added if it is there.
        place: Makes the placement.
        num_images: Pictures that the command is to draw.
        resume: Whether to go on with a run; None of a command that cannot.
    """
    with signals_handled(), errors_shown():
        check_num_images(num_images)
        folder = out or (newest_folder(first) if resume else free_folder(first))
        progress = ProgressLine()
        common = {"out": folder, "device": place(), "observe": progress}
        again = f"to go on, add --resume --out {shlex.quote(str(folder))} to the same command"
        if resume is None:
            again = f"{folder} is not finished: remove it, or give another --out"
        with stopped_shown(again):
            yield common if resume is None else {**common, "resume": resume}
        progress.close()


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
        STOP.stepping = "step" in values and done < total
        STOP.check()
        if not self._terminal and not new and now - self._last < self.PLAIN_EVERY:
            return
        self._stage, self._last = stage, now
        text = printable(f"{stage}: {done}/{total}{_readings(values, self._verdict)}")
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
    left = values.get("seconds_left")
    if "loss" not in values:
        return f"  about {left:.0f} s left" if left else ""
    return f"  loss {values['loss']:.4f}" + (f"  at most {left:.0f} s left" if left else "")
