"""Answers: kept once, in order, on SQLite and on a real PostgreSQL."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select
from studies import answer_all, make

from offbeat.errors import ConfigError, StoreError
from offbeat.study.storage import Answer, Base, Full, Refused, Storage, UnknownLink

POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


def needs_postgres():
    if POSTGRES is None or (shutil.which("runuser") is None and os.geteuid() == 0):
        pytest.skip("NO POSTGRESQL: apt install postgresql")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """A PostgreSQL server of our own, on a socket in a folder."""
    needs_postgres()
    with postgres_server(tmp_path_factory.mktemp("postgres")) as server:
        yield server[:2]


@contextmanager
def postgres_server(folder):
    """Start a server in a folder; give its address, the folder, and what controls it."""
    for above in (folder, *folder.parents[:3]):
        above.chmod(0o755)
    as_owner = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        as_owner = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"
    run = {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run(
        [*as_owner, POSTGRES / "initdb", "-D", data, "-A", "trust", "-U", "postgres"], **run
    )
    control = [*as_owner, POSTGRES / "pg_ctl", "-D", data, "-w", "-t", "600", "-l", folder / "log"]
    options = f"-k {folder} -c listen_addresses="
    start = [*control, "-o", options, "start"]
    subprocess.run(start, **run)
    yield f"postgresql+psycopg://postgres@/{{name}}?host={folder}", folder, start
    subprocess.run([*control, "-m", "immediate", "stop"], **{**run, "check": False})


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request):
    """Give the address of an empty database of each kind; None is the study's own file."""
    if request.param == "sqlite":
        yield None
        return
    template, folder = request.getfixturevalue("postgres")
    create = [POSTGRES / "psql", "-h", folder, "-U", "postgres", "-q", "-c"]
    name = f"study{abs(hash(request.node.name)) % 10**9}"
    subprocess.run([*create, f"CREATE DATABASE {name}"], check=True, cwd="/")
    yield template.format(name=name)
    subprocess.run([*create, f"DROP DATABASE {name} WITH (FORCE)"], check=True, cwd="/")


@pytest.fixture
def storage(tmp_path, url):
    found = Storage(make(tmp_path), url)
    yield found
    found.close()


def test_migrations_make_the_tables_that_the_code_uses(storage):
    with storage.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []


def test_what_is_answered_is_kept_and_undone_and_goes_on(storage):
    token = storage.join()
    for at in range(2):
        storage.answer(token, key=f"{at}", position=at, value="left", seconds=1.0)
    rater = storage.undo(token, key="back")
    assert rater.position == 1
    assert storage.undo(token, key="back").position == 1  # the same request again
    rater = storage.answer(token, key="again", position=1, value="right", seconds=1.0)
    assert [each.value for each in rater.given] == ["left", "right"]
    assert answer_all(storage, token).is_finished


def test_a_doubled_answer_counts_once_and_a_wrong_one_is_refused(storage):
    token = storage.join()
    for _ in range(3):
        rater = storage.answer(token, key="same", position=0, value="left", seconds=1.0)
        assert rater.position == 1
    for position, value in ((0, "left"), (2, "left"), (1, "up")):
        with pytest.raises(Refused):
            storage.answer(token, key=f"{position}{value}", position=position, value=value,
                           seconds=1.0)  # fmt: skip
    assert storage.rater(token).position == 1


def test_fifty_at_once_lose_nothing_and_count_nothing_twice(storage):
    tokens = storage.invite(20)

    def take_part(token):
        storage.join(token)
        for at in range(4):
            for _ in range(2):  # each request twice
                storage.answer(token, key=f"{at}", position=at, value="left", seconds=1.0)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(take_part, tokens))
    raters = storage.raters()
    assert sorted(rater.number for rater in raters) == list(range(20))
    assert [rater.position for rater in raters] == [4] * 20


def test_one_rater_in_two_windows_stays_in_order(storage):
    token = storage.join()

    def answer(key):
        try:
            storage.answer(token, key=key, position=0, value="left", seconds=1.0)
        except Refused:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(answer, [f"window {n}" for n in range(8)])) == 1
    assert storage.rater(token).position == 1


def test_links_are_not_guessed_and_tokens_are_not_stored(storage):
    (token,) = storage.invite(1)
    assert storage.join(token) == token
    assert storage.join(token) == token  # comes back by the same link
    assert len(storage.raters()) == 1
    for guess in ("", "x" * 24, token[:-1]):
        with pytest.raises(UnknownLink):
            storage.join(guess)
        with pytest.raises(UnknownLink):
            storage.rater(guess)
    with storage.engine.connect() as connection:
        dump = "".join(
            str(row)
            for table in Base.metadata.sorted_tables
            for row in connection.execute(table.select())
        )
    assert token not in dump


def test_no_more_take_part_than_the_design_wants(tmp_path):
    storage = Storage(make(tmp_path, raters=2))
    storage.join()
    first = storage.join()
    with pytest.raises(Full):
        storage.join()
    assert storage.join(first) == first  # who takes part may come back
    storage.join(kind="simulation")


def test_one_person_s_answers_are_deleted_and_no_other_s(storage):
    tokens = storage.invite(2)
    for token in tokens:
        storage.join(token)
        answer_all(storage, token)
    storage.forget(0)
    (left,) = storage.raters()
    assert left.number == 1
    assert left.is_finished
    with pytest.raises(UnknownLink):
        storage.join(tokens[0])
    with pytest.raises(ConfigError):
        storage.forget(0)


def test_a_database_of_another_design_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    url = f"sqlite:///{tmp_path}/answers.sqlite"
    Storage(make(tmp_path / "a"), url).close()
    with pytest.raises(StoreError, match="another design"):
        Storage(make(tmp_path / "b", seed=1), url)


@pytest.mark.parametrize("url", ["nonsense", "mysteryql://host/name", "sqlite:////nowhere/x"])
def test_an_address_that_leads_nowhere_is_told(tmp_path, url):
    with pytest.raises((ConfigError, StoreError)):
        Storage(make(tmp_path), url)


KILLED = """
    import sys
    from offbeat.study.design import open_study
    from offbeat.study.storage import Storage

    storage = Storage(open_study(sys.argv[1]))
    token = storage.join()
    print(token, flush=True)
    for at in range(len(storage.rater(token).trials)):
        storage.answer(token, key=f"{at}", position=at, value="left", seconds=1.0)
        print(at, flush=True)  # acknowledged
    sys.stdin.read()
"""


@pytest.mark.parametrize("after", [0, 3, 7])
def test_a_killed_server_loses_no_acknowledged_answer(tmp_path, after):
    study = make(tmp_path, checks=0)
    code = textwrap.dedent(KILLED)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(study.folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    token = process.stdout.readline().strip()
    for line in process.stdout:
        if int(line) == after:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    storage = Storage(study)
    rater = storage.rater(token)
    assert rater.position >= after + 1
    assert answer_all(storage, token).is_finished


def is_alive(process):
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_a_database_killed_in_mid_answer_loses_nothing_acknowledged(tmp_path, tmp_path_factory):
    needs_postgres()
    study = make(tmp_path, checks=0, repeats=0, practice=0)
    with postgres_server(tmp_path_factory.mktemp("killed")) as (address, folder, start):
        storage = Storage(study, address.format(name="postgres"))
        token, acknowledged, is_under_way = storage.join(), [], threading.Event()

        def answer(turn):
            if turn % 2:
                storage.undo(token, key=f"k{turn}")
            else:
                storage.answer(token, key=f"k{turn}", position=0, value="left", seconds=1.0)

        def answer_until_it_dies():
            for turn in itertools.count():
                try:
                    answer(turn)
                except StoreError:
                    return
                acknowledged.append(turn)
                if turn == 5:
                    is_under_way.set()

        with ThreadPoolExecutor(1) as pool:
            rater = pool.submit(answer_until_it_dies)
            is_under_way.wait()
            server = int((folder / "data" / "postmaster.pid").read_text().split()[0])
            children = subprocess.run(
                ["pgrep", "-P", str(server)], check=True, capture_output=True, text=True
            )
            processes = [server, *map(int, children.stdout.split())]
            for process in processes:
                os.kill(process, signal.SIGKILL)
            while any(is_alive(process) for process in processes):
                pass  # a server that starts beside what is left of another refuses to
            rater.result()
        for lock in (folder / "data" / "postmaster.pid", folder / ".s.PGSQL.5432.lock"):
            lock.unlink()  # names a process that is dead
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd="/")
        with storage.engine.connect() as connection:
            stored = connection.scalars(select(Answer.key).order_by(Answer.turn)).all()
        # the answer that was under way may be there too: it was sent, not acknowledged
        assert stored[: len(acknowledged)] == [f"k{turn}" for turn in acknowledged]
        assert len(stored) - len(acknowledged) in (0, 1)
        for turn in range(len(acknowledged), len(acknowledged) + 2):
            answer(turn)  # the same request again, to the server that is back
        assert answer_all(storage, token).is_finished
        storage.close()
