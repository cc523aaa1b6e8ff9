"""Sweeps on one machine: resumed, counted, reported, and stopped by what would stop them all."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc

import pytest
from jobs import FullDisk, Nothing, Refusing, die_at_two

import offbeat
import tiny
from offbeat.errors import StoreError
from offbeat.scale.local import LocalEngine
from offbeat.scale.plan import read_plan
from offbeat.scale.store import Store
from offbeat.scale.sweep import execute, run_plan, try_first
from offbeat.scale.worker import Worker


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny.build(tmp_path_factory.mktemp("checkpoint") / "tiny", "2.2"))


def plan_of(backbone, num=4, **more):
    base = {"prompt": "a cat", "num_images": 1, "backbone": backbone}
    grid = {"seed": {"from": 0, "num": num}}
    return {"verb": "generate", "set": base, "grid": grid, **more}


@pytest.fixture(scope="module")
def engine():
    engine = LocalEngine(2)
    yield engine
    engine.close()


class Inline:
    """An engine without processes."""

    num_workers = 1

    def run(self, job, items):
        worker = Worker("inline", 1)
        return (worker.do(job, number, item) for number, item in enumerate(items))

    def close(self):
        pass


def table(out):
    return list(csv.DictReader((out / "table.csv").read_text().splitlines()))


def digests(out):
    """Return what every run of a sweep holds."""
    return {
        done.parent.name: json.loads(done.read_text())["files"]
        for done in out.glob("runs/*/done.json")
    }


def test_a_sweep_draws_each_task_once_and_reports(backbone, engine, tmp_path):
    plan, told = read_plan(plan_of(backbone)), []
    done = execute(plan, engine, tmp_path / "s", observe=lambda *a: told.append(a))
    assert (done.num_tasks, done.done, done.failed, done.skipped) == (4, 4, 0, 0)
    assert done.loads <= 2  # once a worker
    assert [entry[1] for entry in told] == [1, 2, 3, 4]
    assert told[0][3]["seconds_left"] > 0
    rows = table(tmp_path / "s")
    assert [row["seed"] for row in rows] == ["0", "1", "2", "3"]
    assert len({row["key"] for row in rows}) == 4
    assert {row["state"] for row in rows} == {"done"}
    for name in ("contact.png", "report.html", "summary.json", "table.parquet"):
        assert (tmp_path / "s" / name).stat().st_size > 0
    inline = execute(plan, Inline(), tmp_path / "again")
    assert inline.loads == 1
    assert digests(tmp_path / "again") == digests(tmp_path / "s")  # by whomever they are drawn
    alone = offbeat.generate(**plan.task(3).arguments, out=tmp_path / "alone")
    drawn = tmp_path / "s" / "runs" / plan.task(3).folder
    assert alone.files["images/0000.png"] == (drawn / "images/0000.png").read_bytes()


def test_a_sweep_goes_on_and_may_grow(backbone, tmp_path):
    run = {"out": tmp_path / "s", "workers": 1}
    execute(read_plan(plan_of(backbone, 2)), Inline(), tmp_path / "s")
    before = digests(tmp_path / "s")
    with pytest.raises(StoreError, match="holds a sweep; add --resume"):
        run_plan(plan_of(backbone), **run)
    half = read_plan(plan_of(backbone)).task(2).folder  # what a kill left of a task
    (tmp_path / "s" / "runs" / half).mkdir()
    (tmp_path / "s" / "runs" / half / ".offbeat-x.tmp").write_bytes(b"cut")
    with open(tmp_path / "s" / "results.jsonl", "a") as file:
        file.write('{"key": "cut')
    done = execute(read_plan(plan_of(backbone)), Inline(), tmp_path / "s", resume=True)
    assert (done.done, done.skipped) == (4, 2)
    assert before.items() <= digests(tmp_path / "s").items()
    rows = table(tmp_path / "s")
    assert [row["seed"] for row in rows] == ["0", "1", "2", "3"]
    assert all(row["evaluations"] for row in rows)  # those of the first driver are remembered


def test_a_task_that_always_fails_costs_no_other(backbone, tmp_path):
    plan = read_plan(plan_of(backbone))
    done = execute(plan, Inline(), tmp_path / "s", job=Refusing(str(tmp_path / "s"), None))
    assert (done.done, done.failed) == (3, 1)
    assert "RuntimeError: no luck" in done.problems[0]
    rows = table(tmp_path / "s")
    assert [row["state"] for row in rows] == ["done", "done", "failed", "done"]
    again = execute(plan, Inline(), tmp_path / "s", resume=True)  # failed ones are tried again
    assert (again.done, again.skipped, again.failed) == (4, 3, 0)


def test_a_worker_that_dies_costs_its_item_alone(engine):
    outcomes = sorted(engine.run(die_at_two, range(5)), key=lambda outcome: outcome.number)
    assert [outcome.value for outcome in outcomes] == [0, 1, None, 3, 4]
    assert "died 3 times" in outcomes[2].error


def test_a_full_disk_ends_the_sweep_in_one_line(backbone, tmp_path):
    job = FullDisk(str(tmp_path / "s"), None)
    with pytest.raises(StoreError, match=r"the disk is full: free some space.*--resume"):
        execute(read_plan(plan_of(backbone)), Inline(), tmp_path / "s", job=job)


def test_a_lost_folder_ends_the_sweep_in_one_line(backbone, engine, tmp_path):
    def lose(stage, done, total, values):
        if done == 1:
            shutil.move(tmp_path / "s", tmp_path / "elsewhere")

    with pytest.raises(StoreError, match="folder of the sweep is not there"):
        execute(read_plan(plan_of(backbone, 6)), engine, tmp_path / "s", observe=lose)
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    shutil.move(tmp_path / "elsewhere", tmp_path / "s")
    done = execute(read_plan(plan_of(backbone, 6)), engine, tmp_path / "s", resume=True)
    assert done.done == 6


def test_an_address_holds_the_same(backbone, tmp_path):
    plan = read_plan(plan_of(backbone, 2))
    execute(plan, Inline(), tmp_path / "s")
    execute(plan, Inline(), f"file://{tmp_path}/far")
    assert digests(tmp_path / "far") == digests(tmp_path / "s")
    assert (tmp_path / "far" / "table.csv").exists()
    assert Store(f"file://{tmp_path}/far").finished(plan.task(0).folder)
    done = execute(plan, Inline(), f"file://{tmp_path}/far", resume=True)
    assert done.skipped == 2


def test_a_killed_driver_leaves_what_the_next_ends(backbone, tmp_path):
    import yaml

    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan_of(backbone, 6)))
    command = [sys.executable, "-m", "offbeat", "sweep", str(tmp_path / "plan.yaml"), "--out"]
    command += [str(tmp_path / "s"), "--workers", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as driver:
        assert "tasks: 1/6" in driver.stderr.readline()
        os.kill(driver.pid, signal.SIGKILL)
    done = execute(read_plan(plan_of(backbone, 6)), Inline(), tmp_path / "s", resume=True)
    assert done.done == 6
    assert done.skipped >= 1
    execute(read_plan(plan_of(backbone, 6)), Inline(), tmp_path / "whole")
    assert digests(tmp_path / "s") == digests(tmp_path / "whole")


def test_memory_does_not_grow_with_the_tasks(tmp_path):
    def peak(num):
        plan = read_plan(plan_of("pocket", num))
        tracemalloc.start()
        execute(plan, Inline(), tmp_path / str(num), job=Nothing("", None))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    assert peak(10_000) < peak(300) + 400_000


def test_a_dry_run_counts_and_measures_the_first(backbone):
    told = try_first(plan_of(backbone), workers=2)
    assert told["tasks"] == 4
    assert told["evaluations"] == 4 * told["task_evaluations"] > 0
    assert told["seconds"] > 0
