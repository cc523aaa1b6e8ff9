"""Sweeps on a real Ray cluster of two nodes: a node is killed, a driver is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

if find_spec("ray") is None:
    pytest.skip("NO RAY: it is not installed", allow_module_level=True)

import jobs
import ray
import yaml
from jobs import Caching, Refusing, die_at_two
from ray.cluster_utils import Cluster

import tiny
from offbeat.scale.local import LocalEngine
from offbeat.scale.plan import read_plan
from offbeat.scale.ray import RayEngine, check_address, resources_of
from offbeat.scale.sweep import execute
from offbeat.scale.worker import nothing

pytestmark = pytest.mark.filterwarnings("ignore")  # those of Ray


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny.build(tmp_path_factory.mktemp("checkpoint") / "tiny", "2.2"))


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each."""
    ray.cloudpickle.register_pickle_by_value(jobs)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def engine(cluster):
    engine = RayEngine(cluster.address, patience=5)
    yield engine
    engine.close()


def plan_of(backbone, num):
    base = {"prompt": "a cat", "num_images": 1, "backbone": backbone}
    return {"verb": "generate", "set": base, "grid": {"seed": {"from": 0, "num": num}}}


def digests(out):
    return {
        done.parent.name: json.loads(done.read_text())["files"]
        for done in out.glob("runs/*/done.json")
    }


def test_items_are_taken_when_an_actor_is_free(engine):
    ahead = []

    def items():
        for number in range(1000):
            ahead.append(number)
            yield number

    started = time.monotonic()
    for count, _ in enumerate(engine.run(nothing, items()), start=1):
        assert len(ahead) <= count + engine.num_workers
    assert count == 1000
    print(f"1,000 empty tasks on Ray: {time.monotonic() - started:.1f} s")


def test_what_is_computed_once_is_computed_once_in_the_cluster(engine, tmp_path):
    before = engine.num_kept()
    values = {o.number: o.value for o in engine.run(Caching(tmp_path), range(12))}
    assert values == {number: float(number % 3) for number in range(12)}
    assert engine.num_kept() == before + 3  # though each actor has a cache of its own
    assert len(list(tmp_path.glob("*/baselines/*.safetensors"))) >= 3


def test_a_task_that_kills_its_process_is_reported_and_loses_nothing_else(engine):
    outcomes = sorted(engine.run(die_at_two, range(5)), key=lambda outcome: outcome.number)
    assert [outcome.value for outcome in outcomes] == [0, 1, None, 3, 4]
    assert "died" in outcomes[2].error


def test_a_killed_node_costs_time_and_no_task(cluster, engine, backbone, tmp_path):
    plan = read_plan(plan_of(backbone, 24))
    extra = cluster.list_all_nodes()[-1]

    def kill(stage, done, total, values):
        if done == 5:
            cluster.remove_node(extra, allow_graceful=False)

    job = Refusing(str(tmp_path / "s"), None)
    done = execute(plan, engine, tmp_path / "s", observe=kill, job=job)
    cluster.add_node(num_cpus=1)  # for the tests that follow
    assert (done.done, done.failed) == (23, 1)
    assert "RuntimeError: no luck" in done.problems[0]
    rows = [
        json.loads(line) for line in (tmp_path / "s" / "results.jsonl").read_text().splitlines()
    ]
    assert sorted(row["number"] for row in rows) == list(range(24))  # none twice
    local = LocalEngine(1)
    execute(plan, local, tmp_path / "local")
    local.close()
    on_ray, here = digests(tmp_path / "s"), digests(tmp_path / "local")
    assert len(on_ray) == 23
    assert all(here[name] == files for name, files in on_ray.items())


def test_a_killed_driver_leaves_what_the_next_ends(cluster, engine, backbone, tmp_path):
    engine.close()  # its cores are for the other driver
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan_of(backbone, 6)))
    command = [sys.executable, "-m", "offbeat", "sweep", str(tmp_path / "plan.yaml"), "--out"]
    command += [str(tmp_path / "s"), "--ray", cluster.address, "--workers", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as driver:
        assert any("tasks: 1/6" in line for line in driver.stderr)
        os.kill(driver.pid, signal.SIGKILL)
    again = RayEngine(cluster.address, 1)
    done = execute(read_plan(plan_of(backbone, 6)), again, tmp_path / "s", resume=True)
    again.close()
    assert done.done == 6
    assert done.skipped >= 1
    assert len(digests(tmp_path / "s")) == 6


def test_an_actor_asks_for_what_its_checkpoint_needs():
    tasks = [("generate", {"prompt": "a cat"})]
    cores = resources_of(tasks, None, 2, {"CPU": 8, "GPU": 4})
    assert cores["num_cpus"] == 2
    assert "num_gpus" not in cores  # pocket stays on the CPU
    assert cores["memory"] > 2**28
    tasks = [("generate", {"prompt": "a cat", "device": "cuda"})]
    assert resources_of(tasks, None, 1, {"CPU": 8, "GPU": 4})["num_gpus"] == 1


def test_nobody_at_an_address_is_known_at_once():
    with pytest.raises(OSError, match="refused"):
        check_address("127.0.0.1:1")
