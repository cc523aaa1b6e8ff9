"""Read a table of claims from YAML: what is compared, on which items, and the paper's claim.

One file is one table, and every field below is an entry of it; ``offbeat bench papers MY.yaml``
runs any. What its entry ``quick`` says replaces the rest under ``--quick``; ``only`` there keeps
some of the ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from offbeat.errors import ConfigError

TABLES = Path(__file__).parent / "tables"
DIRECTIONS = ("higher", "lower")
CLAIMANTS = ("paper", "ours", "check")
LISTS = ("looks", "metrics", "left_out")
UNITS = ("item", "run", "training")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One row: a way to make pictures."""

    name: str
    label: str
    method: str = ""
    """A name in the registry; empty draws ``prompt``."""
    set: Mapping[str, Any] = field(default_factory=dict)
    """Settings beside the checkpoint's own."""
    prompt: str = ""
    """A prompt with ``{subject}`` or ``{words}``; empty is the checkpoint's own."""
    form: str = ""
    """A variant that the program knows by name."""
    train: Mapping[str, Any] | None = None
    """Settings of a training made for this row and seed, beside which ``set`` is for drawing; rows
    of the same settings share it. None takes what comes with the checkpoint."""
    backbone: str = ""
    """Another checkpoint than the table's."""
    judge: str = ""
    """A judge that the method itself asks; it is not the one that measures."""
    seeds: int | None = None
    """Fewer than the table's."""
    items: int | None = None
    """The first few of the table's."""
    looks: tuple[int, ...] | None = None
    """Steps at which it is looked at; None is the table's."""
    avoids: str = ""
    """Another row, whose result is marked as unwanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim: a comparison of two rows, or of two readings of one row."""

    says: str
    way: str
    reading: str
    over: str = ""
    """The row that it is held against; empty is the same row."""
    over_reading: str = ""
    """The reading of that row; empty is the same reading."""
    direction: str = "higher"
    within: float | None = None
    """At most so much worse counts as kept; None asks for better."""
    least: float | None = None
    """At least so much better counts; None is any amount."""
    than: float | None = None
    """The number that the reading is held against, in place of another row."""
    items: tuple[str, ...] = ()
    """Names of the items that it is about; none is all of them."""
    equal: float | None = None
    """The claim is that the two differ by less than this, the smallest effect that matters."""
    of: str = "paper"
    """Whose claim it is: ``paper``, ``ours``, or ``check`` of what a row rests on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table: cells are ways x items x seeds."""

    name: str
    title: str
    program: str
    source: str
    ways: Mapping[str, Way]
    about: str = ""
    backbone: str = "pocket"
    seeds: int = 1
    unit: str = "item"
    """What a test pairs: ``item``, mean over its seeds, which speaks of further items; ``run``,
    each seed of each item, which speaks of further seeds of these items; or ``training``, each
    seed, mean over items, which speaks of further trainings."""
    items: Any = ()
    """A list, or what the program makes them of, such as ``{pairs: 30}``."""
    looks: tuple[int, ...] = ()
    num_images: int = 4
    judge: str = "auto"
    """Who measures; no method asks it."""
    budget: int | None = None
    """Network evaluations that a cell may spend on one concept; None is no limit."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the program."""
    readings: Mapping[str, str] = field(default_factory=dict)
    """Columns: a reading, and its heading."""
    metrics: tuple[str, ...] = ()
    """Registered metrics, which become readings of the same names."""
    claims: tuple[Claim, ...] = ()
    left_out: tuple[str, ...] = ()
    """Claims of the paper that are not tested here, each a sentence that says why."""
    sheet: int = 6
    """Items on the sheet; 0 draws none."""


def read_table(path: str | Path, *, quick: bool = False) -> Table:
    """Read one table; with ``quick``, its entry ``quick`` replaces other entries.

    Raises:
        ConfigError: If the file is no table: with its name, the entry, and what was expected.
    """
    file = Path(path)
    if not file.suffix:
        file = TABLES / f"{path}.yaml"
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(one.stem for one in TABLES.glob("*.yaml")))
        raise ConfigError(f"{path}: expected a YAML file, or one of {known}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML ({error})") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}: expected a mapping, got {type(raw).__name__}")
    shorter = raw.pop("quick", None) or {}
    if quick:
        raw |= shorter
    try:
        return _table(file.stem, raw)
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"{file}: {error}") from error


def _table(name: str, raw: dict[str, Any]) -> Table:
    kept = raw.pop("only", None)
    ways = {
        key: _made(Way, {"name": key, "label": key, **(value or {})}, f"ways.{key}")
        for key, value in dict(raw.pop("ways")).items()
    }
    if kept is not None:
        ways = {key: ways[key] for key in kept}
    claims = tuple(_made(Claim, one, "claims") for one in raw.pop("claims", ()))
    table: Table = _made(
        Table,
        {
            **{key: tuple(v) if key in LISTS else v for key, v in raw.items()},
            "name": name,
            "ways": ways,
            "claims": tuple(c for c in claims if {c.way, c.over or c.way} <= set(ways)),
        },
        name,
    )
    if table.unit not in UNITS:
        raise ValueError(f"unit: expected one of {UNITS}, got {table.unit!r}")
    for claim in claims:
        if claim.of not in CLAIMANTS:
            raise ValueError(f"claims: `of` must be one of {CLAIMANTS}: {claim.of!r}")
        if sum(value is not None for value in (claim.within, claim.least, claim.equal)) > 1:
            raise ValueError(f"claims: expected one of `within`, `least`, `equal`: {claim.says!r}")
        if claim.than is not None and (claim.over or claim.over_reading):
            raise ValueError(f"claims: expected `over` or `than`, got both: {claim.says!r}")
        if claim.direction not in DIRECTIONS:
            raise ValueError(f"claims: direction must be one of {DIRECTIONS}: {claim.direction!r}")
        if kept is None:
            _known("claims.way", (claim.way, claim.over or claim.way), ways)
    return table


def _made(cls: type, values: Mapping[str, Any], where: str) -> Any:
    known = {one.name for one in fields(cls)}
    _known(where, values, known)
    tuples = {"looks", "items"} & {name for name in values if isinstance(values[name], list)}
    tuples = tuples if cls in (Way, Claim) else set()
    found = {k: tuple(v) if k in tuples and v is not None else v for k, v in values.items()}
    return cls(**found)


def _known(where: str, names: Any, known: Any) -> None:
    if bad := [name for name in names if name not in known]:
        raise ValueError(f"{where}: unknown {bad[0]!r}; known: {', '.join(sorted(known))}")


def bundled(names: Sequence[str] = ()) -> list[str]:
    """Return the requested tables, or the names of all bundled ones."""
    return list(names) or sorted(file.stem for file in TABLES.glob("*.yaml"))
