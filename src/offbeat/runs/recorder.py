"""Record the steps of a search in the trace, the checkpoint and the progress line; resume it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from offbeat.runs.folder import RunFolder
from offbeat.types import Observe, OnStep, Step

OnKept = Callable[[int, Step], None]

CHECKPOINT_SECONDS = 30.0
"""Work that a kill may cost: a state is written when the last one is so old."""


class Recorder:
    """Records the steps of one search after another, numbered from 0.

    A search of thousands of short steps writes one row in ``row_every``. A resumed run writes the
    very rows that an undisturbed one writes. Seconds are told to the observer and never written:
    two equal runs have equal files.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        observe: Observe,
        *,
        stage: str,
        label: str = "trial",
        row_every: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.observe = folder, observe
        self.stage, self.label = stage, label
        self.row_every, self.clock = row_every, clock
        self._kept_at = clock()
        self.rows: list[dict[str, Any]] = []
        """The rows of the trace, with those of earlier processes."""

    def observer(
        self, number: int, total: int, on_kept: OnKept | None = None, *, done: int = 0
    ) -> OnStep:
        """Return the ``on_step`` of a search.

        Args:
            number: Of the search.
            total: Steps that it takes at most.
            on_kept: Told the count of each step that gets a row in the run folder.
            done: Steps that an earlier process took.
        """
        started = self.clock()

        def on_step(step: Step) -> None:
            count, stopped = step.index + 1, bool(step.values.get("stopped"))
            pace = (self.clock() - started) / max(1, count - done)
            left = 0.0 if stopped else pace * (total - count)
            values = {name: value for name, value in step.values.items() if name != "seconds"}
            row = {self.label: number, "step": step.index, "loss": step.loss, **values}
            if not count % self.row_every or stopped or not step.index:
                self.rows.append(row)
                if self.folder is not None:
                    self.folder.append_trace(row)
                    if on_kept is not None:
                        on_kept(count, step)
            snapshot = step.snapshot
            self.tell(
                self.stage,
                count,
                total,
                {**row, "seconds_left": left},
                None if snapshot is None else lambda: {self.label: number, "search": snapshot()},
            )

        return on_step

    def tell(
        self,
        stage: str,
        done: int,
        total: int,
        values: Mapping[str, Any],
        state: Callable[[], Mapping[str, Any]] | None,
    ) -> None:
        """Tell the observer, and write the state where the last one is old.

        If the observer ends the run by an error, the state is written before the error goes on.

        Args:
            stage: What is done.
            done: How much of it.
            total: Of how much.
            values: What else there is to tell.
            state: What to go on from; the number of rows is added. None cannot be gone on from.
        """
        is_due = self.clock() - self._kept_at >= CHECKPOINT_SECONDS
        try:
            self.observe(stage, done, total, values)
        except BaseException:
            is_due = True
            raise
        finally:
            if is_due and state is not None and self.folder is not None:
                self.folder.save_checkpoint({**state(), "rows": len(self.rows)})
                self._kept_at = self.clock()

    def taken(self, number: int) -> int:
        """Return how many steps search ``number`` has taken, as far as the rows tell."""
        return max((row["step"] + 1 for row in self.rows if row[self.label] == number), default=0)

    def resume(self, number: int) -> Mapping[str, Any] | None:
        """Return the saved state of search ``number``, and cut the trace back to that step."""
        if self.folder is None:
            return None
        state = self.folder.load_checkpoint()
        mine = state is not None and state[self.label] == number
        if state is not None and mine:
            self.folder.cut_trace(state["rows"])
        else:
            before = [row for row in self.folder.trace() if row[self.label] < number]
            self.folder.cut_trace(len(before))
        self.rows = self.folder.trace()
        return state["search"] if state is not None and mine else None

    def reread(self) -> None:
        """Read the trace again: it holds the rows of a search that an earlier process finished."""
        if self.folder is not None:
            self.rows = self.folder.trace()
