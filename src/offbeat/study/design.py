"""The design of a study: what is shown, what is asked, who is left out, and how it is analysed.

A design is a YAML file. ``create`` copies its pictures into a study's folder under names that say
nothing, and writes ``study.json``. Its digest is kept with the first answer: an analysis can show
that nothing was chosen after the answers were seen.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from offbeat.errors import ConfigError, StoreError
from offbeat.files.disk import digest_of, json_bytes, make_folder, read_json, write_atomic
from offbeat.files.pictures import SUFFIXES, clean_png, picture_files

DESIGNS = Path(__file__).parent / "designs"
Kind = Literal["pairs", "ranking", "scale", "yes-no"]
Language: TypeAlias = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Z]{2})?$")]
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=60)]
Words: TypeAlias = Annotated[str, Field(min_length=1, max_length=4000)]
MAX_TRIALS = 500
MAX_SIDE = 1024
"""Pixels of a side of a picture on the page."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Scale(_Part):
    """Whole numbers that a picture is rated with."""

    low: int = Field(default=0, ge=-10, le=10)
    high: int = Field(default=5, ge=-10, le=20)
    anchors: dict[Language, dict[int, Name]] = Field(default_factory=dict)
    """Words at some of the numbers, by language."""

    @model_validator(mode="after")
    def _ascends(self) -> Scale:
        if not self.low < self.high <= self.low + 10:
            raise ValueError(
                f"expected low below high, 11 numbers at most, got {self.low}..{self.high}"
            )
        return self


class Exclusions(_Part):
    """Rules, declared before the first answer, by which a rater is left out of the analysis."""

    max_failed_checks: int = Field(default=0, ge=0)
    """Attention checks that may fail."""
    max_fast_share: float = Field(default=0.2, ge=0, le=1)
    """Share of answers that may come sooner than ``min_seconds``."""
    min_answered: float = Field(default=0.5, ge=0, le=1)
    """Share of the trials that must be answered."""
    min_self_agreement: float | None = Field(default=None, ge=0, le=1)
    """Share of the repeated trials that must be answered alike."""


class Design(_Part):
    """Everything that is decided before the first answer."""

    study: Literal[1]
    """Version of this form."""
    title: Name
    kind: Kind
    question: dict[Language, Words] = Field(min_length=1)
    """By language; ``{item}`` stands for the item's name."""
    conditions: dict[Name, dict[Name, str | dict[str, Any]]] = Field(min_length=1)
    """Condition to item to pictures: a file, a folder, a run's folder or a pattern with ``*``; or
    a verb with its arguments, such as ``{explore: {subject: handbag}}``, which draws them."""
    pictures: int = Field(default=4, ge=1, le=64)
    """The first so many of each condition and item."""
    ties: bool = True
    """Whether a pair may be answered "equal"."""
    scale: Scale = Scale()
    trials: int = Field(default=20, ge=1, le=MAX_TRIALS)
    """Answers asked of each rater, without practice, repeats and checks."""
    practice: int = Field(default=1, ge=0, le=10)
    """Trials at the start that do not count."""
    repeats: int = Field(default=2, ge=0, le=50)
    """Trials shown again, sides swapped, to see how far raters agree with themselves."""
    checks: int = Field(default=2, ge=0, le=20)
    """Trials whose text says what to answer."""
    order: Literal["random", "latin", "informative"] = "random"
    """Of the trials: shuffled for each rater, the rows of a Latin square, or (pairs only) always
    the pair whose answer would tell most about this rater's taste."""
    min_seconds: float = Field(default=0.7, ge=0, le=60)
    """An answer cannot be given sooner."""
    raters: int = Field(default=20, ge=1, le=100_000)
    """How many may take part."""
    open: bool = False
    """Whether anyone who knows the address may take part; otherwise each needs an invitation."""
    consent: dict[Language, Words] = Field(default_factory=dict)
    introduction: dict[Language, Words] = Field(default_factory=dict)
    exclusions: Exclusions = Exclusions()
    level: float = Field(default=0.05, gt=0, lt=1)
    """Of all tests together, by Holm."""
    primary: tuple[Name, Name] | None = None
    """The comparison that decides: the first condition over the second."""
    equal_within: float = Field(default=0.05, gt=0, lt=0.5)
    """Preferences this near to one half count as equal, if the interval says so."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> Design:
        names = list(self.conditions)
        if self.kind in ("pairs", "ranking") and len(names) < 2:
            raise ValueError(f"{self.kind}: expected at least two conditions, got {names}")
        if self.kind == "ranking" and len(names) > 9:
            raise ValueError(f"ranking: expected at most 9 conditions, got {len(names)}")
        if self.order == "informative" and self.kind != "pairs":
            raise ValueError(f"order: informative needs pairs, got {self.kind}")
        items = set(self.conditions[names[0]])
        for name in names:
            if set(self.conditions[name]) != items or not items:
                raise ValueError(
                    f"conditions: expected the same items for each; {names[0]} has "
                    f"{sorted(items)}, {name} has {sorted(self.conditions[name])}"
                )
        if self.primary and (set(self.primary) - set(names) or len(set(self.primary)) < 2):
            raise ValueError(f"primary: expected two of {names}, got {list(self.primary)}")
        for language in (*self.consent, *self.introduction):
            if language not in self.question:
                raise ValueError(f"question: expected one in {language!r} too")
        for text in self.question.values():
            _check_fields(text)
        return self

    @property
    def items(self) -> tuple[str, ...]:
        """Return the names of what the pictures show."""
        return tuple(next(iter(self.conditions.values())))

    @property
    def languages(self) -> tuple[str, ...]:
        """Return the languages of the question, the first is the default."""
        return tuple(self.question)


def _check_fields(text: str) -> None:
    """Refuse a question with other placeholders than ``{item}``."""
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ValueError(f"question: {error}; write {{{{ and }}}} for braces") from error
    if names - {"item"}:
        raise ValueError(f"question: expected no placeholder but {{item}}, got {sorted(names)}")


class Picture(_Part):
    """One picture of a study."""

    id: str
    """Its name on the page: random, so that it tells nothing."""
    condition: str
    item: str
    index: int
    source: str
    """The file that it came from."""
    digest: str


class Study(_Part):
    """A study's folder: the design and its pictures."""

    design: Design
    pictures: tuple[Picture, ...]
    folder: Path

    @property
    def digest(self) -> str:
        """Return the digest of the design and the pictures: of all that is decided beforehand."""
        parts = [self.design.model_dump(mode="json"), [p.model_dump() for p in self.pictures]]
        return digest_of(json.dumps(parts, sort_keys=True).encode())

    @property
    def by_id(self) -> dict[str, Picture]:
        """Return the pictures by their names on the page."""
        return {picture.id: picture for picture in self.pictures}

    def file(self, picture_id: str) -> Path:
        """Return where a picture lies."""
        return self.folder / "pictures" / f"{picture_id}.png"

    @property
    def default_database(self) -> str:
        """Return the address of the SQLite file in the folder."""
        return f"sqlite:///{(self.folder / 'answers.sqlite').resolve()}"


def read_design(path: str | Path) -> tuple[Design, Path]:
    """Read a design: a YAML file, or the name of one that comes with Offbeat.

    Returns:
        The design, and the folder that its pictures' paths are relative to.

    Raises:
        ConfigError: If the file is no design: which entry, what came, what was expected.
        StoreError: If it cannot be read.
    """
    file = Path(path)
    if not file.suffix and (DESIGNS / f"{path}.yaml").is_file():
        file = DESIGNS / f"{path}.yaml"
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(each.stem for each in DESIGNS.glob("*.yaml")))
        raise StoreError(
            f"{file}: cannot be read ({error.strerror}); give a YAML file or one of {known}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        line = " ".join(str(error).split())[:200]
        raise ConfigError(f"{file}: expected YAML ({line})") from error
    base = Path.cwd() if file.parent == DESIGNS else file.resolve().parent
    return design_of(raw, str(file)), base


def design_of(raw: Any, name: str = "design") -> Design:
    """Check a mapping and return it as a design.

    Raises:
        ConfigError: As ``read_design``.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{name}: expected a mapping of entries, got {type(raw).__name__}")
    try:
        return Design.model_validate_json(json.dumps(raw))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: {_in_words(error)}") from error


def _in_words(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    text = re.sub(r"^Value error, ", "", first["msg"])
    shown = "" if isinstance(first.get("input"), Mapping) else f", got {first.get('input')!r:.80}"
    return f"{where}: {text}{shown}" if where else text


def create(design: Design, folder: Path, *, base: Path, draw: Any = None) -> Study:
    """Make a study's folder: the pictures without their metadata, and ``study.json``.

    Args:
        design: What was decided.
        folder: Where it goes; must not be there.
        base: Folder that relative paths of pictures start from.
        draw: Function of a verb, its arguments and a folder that draws the pictures of a
            condition which names a verb.

    Raises:
        StoreError: If the folder exists or cannot be written.
        ConfigError: If a condition has fewer pictures than another.
        ImageError: If a picture cannot be read.
    """
    if (folder / "study.json").exists():
        raise StoreError(f"{folder}: a study is there; choose another --out")
    shutil.rmtree(folder / "pictures", ignore_errors=True)  # of a command that was killed
    make_folder(folder / "pictures")
    pictures = []
    for condition, items in design.conditions.items():
        for item, source in items.items():
            if isinstance(source, dict):
                source = _drawn(source, folder / "drawn", condition, item, draw)
            files = _files_of(base, source)[: design.pictures]
            pictures += [
                _copied(folder, file, condition, item, index) for index, file in enumerate(files)
            ]
    study = Study(design=design, pictures=tuple(pictures), folder=folder)
    _check_counts(study)
    content = {
        "design": design.model_dump(mode="json"),
        "pictures": [picture.model_dump() for picture in pictures],
        "digest": study.digest,
    }
    write_atomic(folder / "study.json", json_bytes(content))
    return study


def _drawn(source: dict[str, Any], folder: Path, condition: str, item: str, draw: Any) -> str:
    if draw is None or len(source) != 1:
        raise ConfigError(
            f"conditions.{condition}.{item}: expected a path, or one verb with its arguments, got "
            f"{sorted(source)}"
        )
    ((verb, arguments),) = source.items()
    if not isinstance(arguments, dict):
        raise ConfigError(f"conditions.{condition}.{item}.{verb}: expected arguments by name")
    where = folder / digest_of(f"{condition}\0{item}".encode())[:12]
    draw(verb, arguments, where)
    return str(where.resolve())


def _copied(folder: Path, file: Path, condition: str, item: str, index: int) -> Picture:
    data, _, _ = clean_png(file, max_side=MAX_SIDE)
    name = secrets.token_hex(12)
    write_atomic(folder / "pictures" / f"{name}.png", data)
    return Picture(
        id=name,
        condition=condition,
        item=item,
        index=index,
        source=str(file),
        digest=digest_of(data),
    )


def _files_of(base: Path, source: str) -> list[Path]:
    """Return the pictures that a path means."""
    path = base / Path(source).expanduser()
    if "*" in source:
        pattern = Path(source)
        root = Path(pattern.anchor) if pattern.is_absolute() else base
        relative = str(pattern.relative_to(pattern.anchor)) if pattern.is_absolute() else source
        return sorted(file for file in root.glob(relative) if file.suffix.lower() in SUFFIXES)
    if path.is_file():
        return [path]
    return picture_files(path / "images" if (path / "request.json").is_file() else path)


def _check_counts(study: Study) -> None:
    """Refuse a study in which a condition has fewer pictures of an item than another."""
    design = study.design
    for item in design.items:
        counts = {
            condition: sum(p.condition == condition and p.item == item for p in study.pictures)
            for condition in design.conditions
        }
        if min(counts.values()) < 1 or len(set(counts.values())) > 1:
            raise ConfigError(
                f"pictures of {item!r}: expected as many of each condition, at least 1, got "
                f"{counts}; lower `pictures`"
            )


def open_study(folder: str | Path) -> Study:
    """Open a study's folder.

    Raises:
        CorruptRunError: If ``study.json`` is missing or damaged.
        ConfigError: If its design was edited so that it does not fit.
        StoreError: If the design or its pictures were changed since they were made.
    """
    path = Path(folder)
    content = read_json(path / "study.json")
    design = design_of(content.get("design"), str(path / "study.json"))
    try:
        pictures = tuple(Picture.model_validate(each) for each in content.get("pictures", ()))
    except (ValidationError, TypeError) as error:
        raise ConfigError(f"{path / 'study.json'}: pictures: {_in_words(error)}") from error
    study = Study(design=design, pictures=pictures, folder=path)
    if content.get("digest") != study.digest:
        raise StoreError(
            f"{path}: the design was changed after it was made; make a new study for another design"
        )
    return study
