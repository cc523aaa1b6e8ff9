"""Whole commands killed at random moments, and many runs in one process: minutes, so slow."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

import offbeat
import tiny

pytestmark = pytest.mark.slow

MOMENTS = 50
TABLE = """
title: "t"
source: "ours"
program: fuse
items: {pairs: 2}
seeds: 1
num_images: 1
ways:
  plain: {label: the prompt, prompt: "a mixture of {words}"}
  distok: {label: DisTok, method: distok}
readings: {lower: the lesser word}
claims:
  - {says: "more of both", way: distok, reading: lower, over: plain}
"""
QUICK = ["--judge", "none"]
COMMANDS = {
    "explore": ["explore", "handbag", "--steps", "10", "-n", "1", "--baseline", "80",
                "--components", "4", "--trials", "2", *QUICK],
    "fuse": ["fuse", "pig", "owl", "--method", "conceptlab", "-n", "1", "--set", "num_steps=60",
             *QUICK],
    "train": ["train", "cretok", "--set", "num_steps=600", "--set", "num_pairs=6",
              "--vocabulary", "WORDS", *QUICK],
    "dream": ["dream", "-n", "2", "--method", "conceptlab", "--set", "num_steps=60",
              "--guide", "none", *QUICK],
    "paint": ["paint", "--art", "ART", "--sweep", "--num", "2", "--set", "num_inference_steps=3"],
    "bench": ["bench", "papers", "TABLE"],
}  # fmt: skip

KILLED = """
    import os, random, signal, sys
    import matplotlib.figure, torch
    torch.set_num_threads(1)
    import offbeat
    from offbeat.checkpoints import open as opening
    from offbeat.cli import app
    from offbeat.runs import recorder

    name, root, moments, command = sys.argv[1], sys.argv[2], int(sys.argv[3]), eval(sys.argv[4])
    recorder.CHECKPOINT_SECONDS = 0.2  # of commands that take seconds
    loaded = {kind: offbeat.load_backbone(kind) for kind in ("pocket", "pocket-sd")}
    for backbone in loaded.values():
        backbone._card["num_inference_steps"] = 2  # how well it draws is not the matter here
    plain = opening.load_backbone
    opening.load_backbone = lambda source="pocket", **settings: loaded[str(source)]
    import offbeat.bench.lab
    offbeat.bench.lab.load_backbone = opening.load_backbone

    def start(out, last, counted=None):
        # one process of the command, which kills itself at its call number ``last``
        child = os.fork()  # one torch for all of them; it has started no threads yet
        if child:
            return os.waitpid(child, 0)[1]
        os.environ["OFFBEAT_CACHE"] = os.path.join(root, "cache", os.path.basename(out))
        sys.stdout = sys.stderr = open(os.path.join(root, "log"), "a")
        calls = 0

        def count(frame, event, argument):
            nonlocal calls
            if event == "call":
                calls += 1
                if calls == last:
                    os.kill(os.getpid(), signal.SIGKILL)

        resume = [] if name == "bench" or not os.path.exists(os.path.join(out, "request.json")) \\
            else ["--resume"]
        sys.setprofile(count)
        app([*command, "--out", out, *resume], standalone_mode=False)
        sys.setprofile(None)
        if counted:
            open(counted, "w").write(str(calls))
        sys.stdout.flush()
        os._exit(0)

    whole, killed = os.path.join(root, "whole"), os.path.join(root, "killed")
    assert start(whole, 0, os.path.join(root, "calls")) == 0, open(os.path.join(root, "log")).read()
    calls = int(open(os.path.join(root, "calls")).read())
    noise = random.Random(name)
    for moment in range(moments):
        status = start(killed, noise.randrange(1, calls))
        if os.WIFEXITED(status):  # it had less left than that
            assert os.WEXITSTATUS(status) == 0, open(os.path.join(root, "log")).read()
            os.rename(killed, f"{killed}-{moment}")
    assert start(killed, 0) == 0, open(os.path.join(root, "log")).read()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_at_random_moments_ends_with_the_same_bytes(name, tmp_path):
    files = {
        "WORDS": "pig\nowl\nfox\nbee\ncat\ndog\n",
        "TABLE": TABLE,
    }
    for file, text in files.items():
        (tmp_path / f"{file.lower()}.yaml").write_text(text)
    offbeat.generate("a pig", num_images=1, backbone="pocket-sd").images[0].save(
        tmp_path / "art.png"
    )
    places = {**{file: f"{file.lower()}.yaml" for file in files}, "ART": "art.png"}
    command = [str(tmp_path / places[part]) if part in places else part for part in COMMANDS[name]]
    moments = -(-MOMENTS // len(COMMANDS))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), name, str(tmp_path), str(moments),
         repr(command)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    whole = contents(tmp_path / "whole")
    folders = sorted(tmp_path.glob("killed*"))
    assert folders
    for folder in folders:
        assert contents(folder) == whole


def contents(folder):
    """Return every file of a folder; the seconds that a benchmark took are left out."""
    return {
        path.relative_to(folder).as_posix(): timeless(path.read_bytes(), path.suffix)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def timeless(data, suffix):
    if suffix != ".json" or b'"seconds' not in data:
        return data

    def without(value):
        if isinstance(value, dict):
            return {k: without(v) for k, v in value.items() if not k.startswith("seconds")}
        return [without(part) for part in value] if isinstance(value, list) else value

    return without(json.loads(data))


RUNS, WARM = 30, 5

GROWS = """
    import sys
    import psutil, torch
    torch.set_num_threads(1)
    import offbeat

    backbone = offbeat.load_backbone(sys.argv[1])
    used = []
    for number in range(int(sys.argv[2])):
        offbeat.generate("a pig", num_images=2, backbone=backbone, out=f"{sys.argv[3]}/{number}")
        offbeat.explore("pet", method="raw-prompt", num_images=2, judge="none", backbone=backbone)
        used.append(psutil.Process().memory_info().rss)
    print(*used)
"""


def test_thirty_runs_in_one_process_leak_nothing(tmp_path):
    folder = tiny.build_sd(tmp_path / "sd", "sd")
    command = [sys.executable, "-c", textwrap.dedent(GROWS), str(folder), str(WARM + RUNS),
               str(tmp_path / "out")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    used = [int(part) for part in done.stdout.split()][WARM:]
    assert used[-1] <= 1.02 * used[0], [round(part / 1e6, 1) for part in used]
