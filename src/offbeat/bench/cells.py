"""One cell of a table: one way, on one item, with one seed; and the programs that compute it."""

from __future__ import annotations

import importlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from offbeat.bench.lab import Lab, Outcome
from offbeat.bench.spec import Table, Way
from offbeat.errors import ConfigError
from offbeat.files.disk import digest_of, json_bytes, plain, safe_name, write_atomic
from offbeat.files.labels import versions
from offbeat.files.png import to_pil

PROGRAMS = {
    "explore": "offbeat.bench.programs.explore:Explore",
    "seen": "offbeat.bench.programs.seen:Seen",
    "fuse": "offbeat.bench.programs.fuse:Fuse",
    "dream": "offbeat.bench.programs.dream:Dream",
    "paint": "offbeat.bench.programs.paint:Paint",
    "arousal": "offbeat.bench.programs.arousal:Arousal",
}
"""What a table's ``program`` may be; ``module:Class`` of another package is one too."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item that every way is tried on: a subject, a pair or a triple."""

    name: str
    value: Any


class Program(Protocol):
    """Computes the cells of one kind of table."""

    def __init__(self, table: Table, lab: Lab) -> None: ...

    def items(self) -> Sequence[Item]:
        """Return the items in order."""
        ...

    def key(self, way: Way) -> Mapping[str, Any]:
        """Return a cell's further inputs as JSON values; a change of them computes it anew."""
        ...

    def cell(self, way: Way, item: Item, seed: int) -> Outcome:
        """Compute one cell; way, item and seed alone decide every random draw."""
        ...


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table: a way, an item and a seed."""

    way: Way
    item: Item
    seed: int

    def file(self, out: Path) -> Path:
        """The file of a cell."""
        item = safe_name(self.item.name.replace(" ", "_"))
        return out / safe_name(self.way.name) / f"{item}-{self.seed}.json"


class TableRun:
    """One table with its folder and its program."""

    def __init__(self, table: Table, out: Path) -> None:
        self.table, self.out = table, out
        self.lab = Lab(table)
        self.program: Program = _program(table.program)(table, self.lab)

    def cells(self) -> Iterator[Cell]:
        """Yield all cells, item by item, and the ways of an item in order."""
        items = list(self.program.items())
        for seed in range(self.table.seeds):
            for number, item in enumerate(items):
                for way in self.table.ways.values():
                    if seed < (self.table.seeds if way.seeds is None else way.seeds) and number < (
                        len(items) if way.items is None else way.items
                    ):
                        yield Cell(way, item, seed)

    @property
    def num_items(self) -> int:
        """How many items there are."""
        return len({cell.item.name for cell in self.cells()})

    def is_complete(self) -> bool:
        """Return whether every cell is there."""
        keys = {name: self._digest(way) for name, way in self.table.ways.items()}
        return all(self.kept(cell, keys[cell.way.name]) is not None for cell in self.cells())

    def compute(self, part: tuple[int, int], tell: Callable[[str], None]) -> None:
        """Compute the missing cells of a part."""
        index, count = part
        keys = {name: self._digest(way) for name, way in self.table.ways.items()}
        cells = list(self.cells())
        order = {item: at for at, item in enumerate(dict.fromkeys(c.item.name for c in cells))}
        for number, cell in enumerate(cells):
            if order[cell.item.name] % count != index % count:
                continue
            if self.kept(cell, keys[cell.way.name]) is None:
                found = self._made(cell, keys[cell.way.name])
                tell(f"{self.table.name} {number + 1}/{len(cells)} {cell.way.name} "
                     f"{cell.item.name} {cell.seed}: {found['seconds_all']:.1f} s")  # fmt: skip

    def kept(self, cell: Cell, key: str) -> dict[str, Any] | None:
        """Return a saved cell of the same inputs, or None."""
        file = cell.file(self.out)
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:  # cut by a full disk or an editor: computed again
            return None
        return found if found.get("key") == key else None

    def results(self) -> list[tuple[Cell, dict[str, Any]]]:
        """Return all saved cells with their readings."""
        keys = {name: self._digest(way) for name, way in self.table.ways.items()}
        found = [(cell, self.kept(cell, keys[cell.way.name])) for cell in self.cells()]
        return [(cell, kept) for cell, kept in found if kept is not None]

    def _digest(self, way: Way) -> str:
        table, lab = self.table, self.lab
        told = {
            "way": {k: v for k, v in asdict(way).items() if k not in ("label", "seeds", "items")},
            "program": [table.program, table.options, table.num_images, table.budget, table.judge],
            "looks": way.looks if way.looks is not None else table.looks,
            "metrics": table.metrics,
            "fingerprints": [lab.backbone.fingerprint, lab.backbone_for(way).fingerprint],
            "versions": versions(),
            "own": self.program.key(way),
        }
        return digest_of(json_bytes(plain(told)))

    def _made(self, cell: Cell, key: str) -> dict[str, Any]:
        started = time.perf_counter()
        outcome = self.program.cell(cell.way, cell.item, cell.seed)
        readings = {**outcome.readings, **self._measured(outcome)}
        found = {
            "key": key,
            "readings": {k: v for k, v in readings.items() if math.isfinite(v)},
            "evaluations": outcome.evaluations,
            "seconds": outcome.seconds,
            "num_images": len(outcome.images),
            "extra": plain(outcome.extra),
            "seconds_all": time.perf_counter() - started,
        }
        file = cell.file(self.out)
        file.parent.mkdir(parents=True, exist_ok=True)
        if len(outcome.images):
            to_pil(outcome.images[:1])[0].save(file.with_suffix(".png"))
        write_atomic(file, json_bytes(found))
        return found

    def _measured(self, outcome: Outcome) -> dict[str, float]:
        return {
            name: self.lab.metric(name).score(
                list(outcome.images),
                texts=list(outcome.texts) or None,
                references=outcome.references,
            ).mean
            for name in self.table.metrics
        }  # fmt: skip


def _program(name: str) -> Any:
    target = PROGRAMS.get(name, name)
    module, _, attribute = target.partition(":")
    if not attribute:
        known = ", ".join(PROGRAMS)
        raise ConfigError(f"program: expected one of {known}, or module:Class, got {name!r}")
    return getattr(importlib.import_module(module), attribute)
