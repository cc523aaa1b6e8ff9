"""Answers in a database: SQLite in the study's folder, or PostgreSQL by its address.

Answers are only ever appended; an undo is a row of its own. A rater's rows are numbered, and the
numbers are unique, so that two requests at once cannot both be the next. A request that comes
twice has the same key and is stored once. An answer is acknowledged after the database has it on
disk.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import (
    JSON,
    Double,
    ForeignKey,
    UniqueConstraint,
    create_engine,
    delete,
    event,
    func,
    select,
)
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from offbeat.errors import ConfigError, StoreError
from offbeat.study.design import Study
from offbeat.study.schedule import Trial, counts, is_answer, schedule

RETRIES = 50
"""Tries of an insertion that another request was faster with."""
KINDS = ("person", "simulation", "model")


class Base(DeclarativeBase):
    """Tables of a study."""


class Meta(Base):
    """Facts of the study, such as the digest of its design."""

    __tablename__ = "study"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class Invitation(Base):
    """A link that lets one person take part; only the digest of its token is kept."""

    __tablename__ = "invitations"
    token: Mapped[str] = mapped_column(primary_key=True)
    used: Mapped[bool] = mapped_column(default=False)


class Rater(Base):
    """Who answers: a person, a simulation or a model."""

    __tablename__ = "raters"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(unique=True)
    token: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    name: Mapped[str]
    """Of a model or a simulation; empty for a person."""
    language: Mapped[str]
    joined: Mapped[float] = mapped_column(Double)
    trials: Mapped[list[Any]] = mapped_column(JSON)


class Answer(Base):
    """One row of what a rater did: an answer, or an undo of the one before."""

    __tablename__ = "answers"
    __table_args__ = (
        UniqueConstraint("rater", "turn", name="one_at_a_time"),
        UniqueConstraint("rater", "key", name="once_only"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    rater: Mapped[int] = mapped_column(ForeignKey("raters.id"))
    turn: Mapped[int]
    key: Mapped[str]
    """Made by the page for each decision, so that a repeated request is recognised."""
    action: Mapped[str]
    position: Mapped[int]
    value: Mapped[Any] = mapped_column(JSON)
    seconds: Mapped[float] = mapped_column(Double)
    created: Mapped[float] = mapped_column(Double)


@dataclass(frozen=True, slots=True)
class Given:
    """An answer that holds: no undo followed it."""

    position: int
    value: Any
    seconds: float
    created: float


@dataclass(frozen=True, slots=True)
class RaterState:
    """A rater with the trials and the answers so far."""

    id: int
    number: int
    kind: str
    name: str
    language: str
    trials: tuple[Trial, ...]
    given: tuple[Given, ...] = field(default=())

    @property
    def position(self) -> int:
        """Return which trial is next."""
        return len(self.given)

    @property
    def is_finished(self) -> bool:
        """Return whether every trial is answered."""
        return self.position >= len(self.trials)


class Refused(Exception):
    """An answer that does not follow on what is stored."""


class Full(Exception):
    """No more raters are wanted."""


class UnknownLink(Exception):
    """A token that this study did not give out."""


class Storage:
    """The database of a study; safe to use from several threads and processes."""

    def __init__(
        self,
        study: Study,
        url: str | None = None,
        *,
        next_trials: Callable[[RaterState], Sequence[Trial]] | None = None,
    ) -> None:
        """Open the database, and bring its tables up to date.

        Args:
            study: Whose answers it holds.
            url: Address for SQLAlchemy; None is an SQLite file in the study's folder.
            next_trials: After each answer, returns the rater's trials anew; those that are
                answered stay as they are. None keeps those that a rater was given at first.

        Raises:
            ConfigError: If the address is none.
            StoreError: If the database cannot be reached, or holds another study.
        """
        self.study, self._next_trials = study, next_trials
        self._turn = threading.Lock()
        try:
            self.engine = create_engine(
                url or study.default_database, pool_pre_ping=True, pool_size=8, max_overflow=32
            )
            if self.engine.dialect.name == "sqlite":
                event.listen(self.engine, "connect", _make_durable)
                event.listen(self.engine, "begin", _begin)
            self._writer = self.engine.execution_options(writes=True)
            migrate(self._writer)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise ConfigError(
                f"--database: expected an address such as postgresql+psycopg://user@host/name, "
                f"and it cannot be used ({error})"
            ) from error
        except SQLAlchemyError as error:
            raise StoreError(f"the database cannot be reached ({_first_line(error)})") from error
        with self._writing() as session:
            kept = session.get(Meta, "digest")
            if kept is None:
                session.add(Meta(name="digest", value=study.digest))
            elif kept.value != study.digest:
                raise StoreError(
                    "the database holds answers to another design; choose another --database"
                )

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        # SQLite lets one write at a time, and those that wait for it try again at random: some
        # of many would wait for ever, so threads take turns before they ask
        turn = self._turn if self.engine.dialect.name == "sqlite" else nullcontext()
        try:
            with turn, Session(self._writer) as session, session.begin():
                yield session
        except OperationalError as error:
            raise StoreError(f"the database is busy or gone ({_first_line(error)})") from error

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        try:
            with Session(self.engine) as session:
                yield session
        except OperationalError as error:
            raise StoreError(f"the database is busy or gone ({_first_line(error)})") from error

    # --- raters

    def invite(self, count: int) -> list[str]:
        """Return new tokens, each for one person."""
        tokens = [secrets.token_urlsafe(18) for _ in range(count)]
        with self._writing() as session:
            session.add_all(Invitation(token=_hidden(token)) for token in tokens)
        return tokens

    def join(
        self,
        token: str | None = None,
        *,
        language: str | None = None,
        kind: str = "person",
        name: str = "",
    ) -> str:
        """Make a rater, or find the one of a link that was used before; return the token.

        Args:
            token: Of an invitation, or of a rater who comes back; None makes a rater without.
            language: That the page is shown in; None is the design's first.
            kind: Person, simulation or model.
            name: Of a simulation or model.

        Raises:
            UnknownLink: If the token was not given out.
            Full: If there are as many raters as the design wants.
        """
        for _ in range(RETRIES):
            try:
                return self._join(token, language, kind, name)
            except IntegrityError:  # another joined at this moment and took the number
                time.sleep(secrets.randbelow(50) / 1000)
        raise StoreError("too many raters join at once; try again")

    def _join(self, token: str | None, language: str | None, kind: str, name: str) -> str:
        design = self.study.design
        with self._writing() as session:
            if token is not None:
                if session.scalar(select(Rater.id).where(Rater.token == _hidden(token))):
                    return token
                invitation = session.get(Invitation, _hidden(token))
                if invitation is None:
                    raise UnknownLink(token)
                invitation.used = True
            people = select(func.count()).select_from(Rater).where(Rater.kind == "person")
            if kind == "person" and session.scalar(people) >= design.raters:  # type: ignore[operator]
                raise Full
            number = session.scalar(select(func.coalesce(func.max(Rater.number) + 1, 0))) or 0
            rows = [
                [Trial.model_validate_json(text) for text in trials]
                for trials in session.scalars(select(Rater.trials).where(Rater.kind == kind))
            ]
            trials = schedule(self.study, number, counts(rows))
            token = token or secrets.token_urlsafe(18)
            rater = Rater(
                number=number,
                token=_hidden(token),
                kind=kind,
                name=name,
                language=language if language in design.languages else design.languages[0],
                joined=time.time(),
                trials=[trial.model_dump_json() for trial in trials],
            )
            session.add(rater)
        return token

    def rater(self, token: str) -> RaterState:
        """Return the rater of a token.

        Raises:
            UnknownLink: If nobody has it.
        """
        with self._reading() as session:
            rater = session.scalar(select(Rater).where(Rater.token == _hidden(token)))
            if rater is None:
                raise UnknownLink(token)
            rows = session.scalars(
                select(Answer).where(Answer.rater == rater.id).order_by(Answer.turn)
            ).all()
            return _read(rater, rows)

    def raters(self, kind: str = "person") -> list[RaterState]:
        """Return all raters of a kind with their answers, in the order in which they joined."""
        with self._reading() as session:
            rows: dict[int, list[Answer]] = {}
            for answer in session.scalars(select(Answer).order_by(Answer.rater, Answer.turn)):
                rows.setdefault(answer.rater, []).append(answer)
            selected = session.scalars(
                select(Rater).where(Rater.kind == kind).order_by(Rater.number)
            ).all()
            return [_read(rater, rows.get(rater.id, [])) for rater in selected]

    def forget(self, number: int) -> None:
        """Delete one rater and all that the rater answered.

        Raises:
            ConfigError: If there is no such rater.
        """
        with self._writing() as session:
            rater = session.scalar(select(Rater).where(Rater.number == number))
            if rater is None:
                raise ConfigError(f"rater {number}: no such rater; `study export` lists them")
            session.execute(delete(Answer).where(Answer.rater == rater.id))
            session.execute(delete(Invitation).where(Invitation.token == rater.token))
            session.delete(rater)

    # --- answers

    def answer(
        self, token: str, *, key: str, position: int, value: Any, seconds: float
    ) -> RaterState:
        """Store an answer to the trial at ``position``, once for each ``key``.

        Returns:
            The rater after it.

        Raises:
            UnknownLink: If nobody has the token.
            Refused: If another trial is next, or the value answers nothing.
        """
        return self._append(token, key, "answer", position, value, seconds)

    def undo(self, token: str, *, key: str) -> RaterState:
        """Take the last answer back, once for each ``key``; as ``answer``."""
        return self._append(token, key, "undo", None, None, 0.0)

    def _append(
        self, token: str, key: str, action: str, position: int | None, value: Any, seconds: float
    ) -> RaterState:
        for _ in range(RETRIES):
            try:
                with self._writing() as session:
                    self._insert(session, token, key, action, position, value, seconds)
                break
            except IntegrityError:  # the same rater's other request was faster
                continue
        else:
            raise StoreError("the answer could not be stored; try again")
        return self.rater(token)

    def _insert(
        self,
        session: Session,
        token: str,
        key: str,
        action: str,
        position: int | None,
        value: Any,
        seconds: float,
    ) -> None:
        rater = session.scalar(select(Rater).where(Rater.token == _hidden(token)))
        if rater is None:
            raise UnknownLink(token)
        rows = session.scalars(
            select(Answer).where(Answer.rater == rater.id).order_by(Answer.turn)
        ).all()
        if any(row.key == key for row in rows):
            return
        so_far = _read(rater, rows)
        if action == "undo":
            if not so_far.given:
                raise Refused("there is no answer to take back")
            position = so_far.position - 1
        elif position != so_far.position or so_far.is_finished:
            raise Refused(f"trial {so_far.position} is next, got an answer to {position}")
        elif not is_answer(self.study.design, so_far.trials[so_far.position], value):
            raise Refused(f"expected an answer of a {self.study.design.kind} study, got {value!r}")
        now = time.time()
        since = now - (rows[-1].created if rows else rater.joined)
        new = Answer(
            rater=rater.id,
            turn=len(rows),
            key=key,
            action=action,
            position=position,
            value=value,
            seconds=min(seconds, since) if rater.kind == "person" else seconds,
            created=now,
        )
        session.add(new)
        if self._next_trials is not None and action == "answer":
            after = self._next_trials(_read(rater, [*rows, new]))
            rater.trials = [trial.model_dump_json() for trial in after]


def _read(rater: Rater, rows: Sequence[Answer]) -> RaterState:
    given: list[Given] = []
    for row in rows:
        if row.action == "undo":
            given.pop()
        else:
            given.append(Given(row.position, row.value, row.seconds, row.created))
    return RaterState(
        id=rater.id,
        number=rater.number,
        kind=rater.kind,
        name=rater.name,
        language=rater.language,
        trials=tuple(Trial.model_validate_json(text) for text in rater.trials),
        given=tuple(given),
    )


def migrate(engine: Any) -> None:
    """Bring the tables of a database up to date."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _make_durable(connection: Any, record: Any) -> None:
    """Write every answer to the disk before it is acknowledged; wait while another writes."""
    connection.isolation_level = None  # ``_begin`` begins
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=20000")
    cursor.close()


def _begin(connection: Any) -> None:
    """Begin a transaction; one that writes takes its turn at once, or it could not go on later."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _hidden(token: str) -> str:
    """Return the digest of a token: who reads the database cannot answer for others."""
    return hashlib.sha256(token.encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def rows_of(study: Study, raters: Sequence[RaterState]) -> list[Mapping[str, Any]]:
    """Return every answer that holds as a flat row, for files and tables."""
    pictures = study.by_id
    rows: list[Mapping[str, Any]] = []
    for rater in raters:
        for given in rater.given:
            trial = rater.trials[given.position]
            rows.append(
                {
                    "rater": rater.number,
                    "kind": rater.kind,
                    "name": rater.name,
                    "language": rater.language,
                    "position": given.position,
                    "purpose": trial.purpose,
                    "item": trial.item,
                    "conditions": [pictures[each].condition for each in trial.pictures],
                    "pictures": list(trial.pictures),
                    "value": given.value,
                    "expected": trial.expected,
                    "seconds": round(given.seconds, 3),
                }
            )
    return rows
