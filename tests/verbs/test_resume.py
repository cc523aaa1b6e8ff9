"""Runs killed at chosen writes, and the pictures they end with all the same."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import offbeat
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.runs.folder import RunFolder

SMALL = LowProbabilityConfig(
    num_baseline=60, num_held_out=20, num_components=4, num_steps=10, num_probes=8, probe_every=5,
    judge_every=5, num_judged=1, lora_rank=2, quantile=0.999,
    use_support=False,
)  # fmt: skip
SETTINGS = {
    "num_images": 1, "num_trials": 1, "judge": "none", "directions": 2, "candidates": 2,
}  # fmt: skip

STATE = "checkpoint/state.safetensors"
KILLS = {
    "searching": [
        ("trace.jsonl", 1),
        ("trace.jsonl", 4),  # there is no checkpoint yet: from the start again
        (STATE, 1),
        ("trace.jsonl", 8),  # after the checkpoint of step 5
        ("trace.jsonl", 4),  # goes on from it, and dies once more
        ("trials/0/concept.safetensors", 1),  # between the last checkpoint and the concept
        ("trace.jsonl", 1),  # the second trial, beside the first one's checkpoint
        ("trace.jsonl", 8),
        ("trials/1/concept.safetensors", 1),
    ],
    "writing": [
        ("concepts/0000/concept.safetensors", 1),
        ("images/0000.png", 1),
        ("done.json", 1),
        ("checkpoint", 1),  # finished, and the checkpoint is left
    ],
}
"""Where the processes of a run die, one after the other: before the n-th write of a file, or before
the checkpoint is removed."""

KILLED = """
    import itertools, os, shutil, signal, sys
    import matplotlib.figure, torch
    torch.set_num_threads(1)
    import offbeat
    from offbeat import LowProbabilityConfig
    from offbeat.runs import folder as run_folder, recorder

    root, kills, config, settings = sys.argv[1], *map(eval, sys.argv[2:])
    pocket = offbeat.load_backbone("pocket")
    pocket._card["num_inference_steps"] = 2  # how well it draws is not the matter here

    # the clock is read twice a step: a state every five steps
    recorder.CHECKPOINT_SECONDS = 10
    recorder.Recorder.__init__.__kwdefaults__["clock"] = itertools.count().__next__

    def die_before(wanted, number, out):
        def guarded(function, name_of):
            def call(*args, **kwargs):
                nonlocal number
                number -= name_of(*args) == wanted
                if number == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)
            return call

        def inside(path, *_):
            return os.path.relpath(path, out)

        run_folder.write_atomic = guarded(run_folder.write_atomic, inside)
        shutil.rmtree = guarded(shutil.rmtree, inside)
        append = run_folder.RunFolder.append_trace
        run_folder.RunFolder.append_trace = guarded(append, lambda *_: "trace.jsonl")

    for name, points in kills.items():
        settings |= {"out": os.path.join(root, name), "config": config, "backbone": pocket}
        for point in points:
            child = os.fork()  # one torch for all of them; it has started no threads yet
            if child == 0:
                die_before(*point, settings["out"])
                offbeat.explore("handbag", resume=True, **settings)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status), (name, point, status)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder with the run folders that ``KILLS`` left."""
    root = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFBEAT_CACHE", str(root / "cache"))
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(root), repr(KILLS)]
        done = subprocess.run(
            [*command, repr(SMALL), repr(SETTINGS)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        yield root


@pytest.fixture(scope="module", autouse=True)
def quick(pocket):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pocket._card, "num_inference_steps", 2)
        yield


@pytest.fixture(scope="module")
def whole(pocket, killed):
    return explore(pocket, killed / "whole")


def explore(pocket, out, **kwargs):
    return offbeat.explore("handbag", config=SMALL, backbone=pocket, out=out, **SETTINGS, **kwargs)


def pictures(folder: Path):
    return {
        f"{kind}/{path.name}": path.read_bytes()
        for kind in ("images", "ordinary")
        for path in (folder / kind).iterdir()
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("name", KILLS)
def test_a_killed_run_ends_with_the_pictures_of_a_whole_one(pocket, killed, whole, name):
    assert RunFolder.open(killed / name).is_finished == (name == "writing")
    resumed = explore(pocket, killed / name, resume=True)
    assert [(row["trial"], row["step"]) for row in resumed.trace] == [
        (row["trial"], row["step"]) for row in whole.trace
    ]
    assert pictures(resumed.folder) == pictures(whole.folder)
    assert RunFolder.open(resumed.folder).names() == RunFolder.open(whole.folder).names()
    RunFolder.open(resumed.folder).verify()
    assert not (resumed.folder / "checkpoint").exists()
    assert not list(resumed.folder.rglob(".offbeat-*"))


def test_a_finished_run_is_only_read(pocket, killed, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")}
    again = explore(pocket, whole.folder, resume=True)
    assert [p.tobytes() for p in again.images] == [p.tobytes() for p in whole.images]
    assert {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")} == before
