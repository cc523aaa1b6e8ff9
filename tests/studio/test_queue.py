"""The queue's list: turns, what a dead server leaves, and what a worker's end does."""

import time

import psutil
import pytest
from asking import SMALL

from offbeat.studio.database import Database, new_id
from offbeat.studio.events import Events
from offbeat.studio.queue import Queue


def add(database, session):
    row = {
        "id": new_id(), "session": session, "verb": "generate", "request": {}, "title": "t",
        "subject": "s", "method": "generate", "backbone": "pocket",
    }  # fmt: skip
    database.add_run(row, [])
    return row["id"]


@pytest.fixture
def database(tmp_path):
    found = Database(tmp_path / "studio.sqlite")
    yield found
    found.close()


def test_sessions_take_turns(database):
    many = [add(database, "ann") for _ in range(3)]
    one = add(database, "bob")
    order = []
    told = database.queue_order()
    while (row := database.next_queued()) is not None:
        order.append(row["id"])
        database.update_run(row["id"], state="finished", started=time.time())
    assert order == [many[0], one, *many[1:]] == told


def test_a_job_that_goes_on_after_a_cancel_is_not_ended_for_it(database, tmp_path):
    queue = Queue(database, Events(), tmp_path, device="cpu", warm="pocket")
    ended = []
    queue._process = type("Process", (), {"kill": lambda self: ended.append("killed")})()
    before = {"id": "a", "attempts": 1}
    queue._running = {"id": "a", "attempts": 2}  # cancelled, ended, resumed: the same job again
    queue._end_by_force(before)
    assert ended == []
    queue._end_by_force(queue._running)
    assert ended == ["killed"]


def test_a_job_that_was_under_way_at_three_deaths_waits_for_someone(database, tmp_path):
    tired, fresh = add(database, "ann"), add(database, "ann")
    database.update_run(tired, state="running", attempts=3)
    database.update_run(fresh, state="running", attempts=1)
    Queue(database, Events(), tmp_path, device="cpu", warm="pocket").start(lambda row: None)
    assert database.run(tired)["state"] == "interrupted"
    assert database.run(fresh)["state"] == "queued"


def test_only_its_owner_reads_the_list(tmp_path, database):
    assert (tmp_path / "studio.sqlite").stat().st_mode & 0o077 == 0
    secret = database.secret()
    assert secret == database.secret()
    assert len(secret) == 32


def test_a_worker_that_dies_or_does_not_listen_costs_its_job_and_no_other(browser, monkeypatch):
    queue = browser.client.app.state.studio.queue

    def begun():
        job = browser.ask("explore", subject="cat", num_steps=500, judge="none", config=SMALL)
        while browser.get(f"/jobs/{job['id']}")["stage"] is None:
            time.sleep(0.02)
        return job, psutil.Process(queue._process.pid)

    job, worker = begun()
    worker.kill()
    failed = browser.end_of(job)
    assert (failed["state"], failed["error"]["kind"]) == ("failed", "Died")
    monkeypatch.setattr("offbeat.studio.queue.PATIENCE", 0.2)
    job, worker = begun()
    worker.suspend()
    browser.client.delete(f"/api/v1/jobs/{job['id']}")
    assert browser.end_of(job)["state"] == "cancelled"
    small = {"num_images": 1, "num_inference_steps": 1, "prior_num_inference_steps": 2}
    browser.done("generate", prompt="an owl", **small)
