import errno
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offbeat.errors import CorruptRunError, ResumeError, StoreError
from offbeat.files import disk
from offbeat.files.cache import cache_folder, cached
from offbeat.files.disk import pack_tensors, unpack_tensors, write_atomic
from offbeat.runs.folder import RunFolder

REQUEST = {"subject": "handbag", "seed": 3, "method": {"novelty": 0.999, "spaces": ("a", "b")}}


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", REQUEST)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path / "cache"))


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def full_disk(monkeypatch, number=errno.ENOSPC):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)


def finished(run):
    run.append_trace({"step": 0})
    run.write({"images/0000.png": b"picture", "report.html": b"<p>"})
    run.finish()
    return run


# --- files


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permissions")],
)
def test_a_write_that_fails_says_what_to_do_and_leaves_the_old_file(
    tmp_path, monkeypatch, number, advice
):
    path = tmp_path / "report.html"
    write_atomic(path, b"old")
    full_disk(monkeypatch, number)
    with pytest.raises(StoreError, match=rf"report.html.*{advice}.*--out"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["report.html"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_trace_line_that_does_not_fit_is_an_error(run):
    (run.path / "trace.jsonl").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="cannot be written"):
        run.append_trace({"step": 0})


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="part of its path is a file"):
        RunFolder.create(tmp_path / "file" / "run", REQUEST)
    with pytest.raises(StoreError, match="expected a folder, got a file"):
        RunFolder.create(tmp_path / "file", REQUEST)


@pytest.mark.parametrize("relative", ["../x", "/x", "a/../../x", "..\\x", ""])
def test_no_file_is_written_outside_the_folder(run, relative):
    with pytest.raises(StoreError, match="inside the run folder"):
        run.write({relative: b""})


# --- opening


def test_a_run_reopens_only_when_asked_to(run):
    with pytest.raises(StoreError, match=r"unfinished run.*--resume"):
        RunFolder.create(run.path, REQUEST)
    again = RunFolder.create(run.path, REQUEST, resume=True)
    assert again.request == run.request == RunFolder.open(run.path).request
    assert again.request["method"]["spaces"] == ["a", "b"]
    finished(again)
    with pytest.raises(StoreError, match=r"finished run.*--resume"):
        RunFolder.create(run.path, REQUEST)
    assert RunFolder.create(run.path, REQUEST, resume=True).is_finished


def test_other_settings_do_not_resume_and_are_named(run):
    other = {"subject": "handbag", "seed": 4, "method": {"novelty": 0.9, "spaces": ["a", "b"]}}
    with pytest.raises(ResumeError) as caught:
        RunFolder.create(run.path, other, resume=True)
    assert "seed: got 4, expected 3" in str(caught.value)
    assert "method.novelty: got 0.9, expected 0.999" in str(caught.value)
    assert "subject" not in str(caught.value)
    assert json.loads((run.path / "request.json").read_text())["seed"] == 3


def test_a_folder_of_other_files_is_not_touched(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match="holds files and no run"):
        RunFolder.create(tmp_path, REQUEST, resume=True)
    assert names(tmp_path) == ["holiday.jpg"]


def damage(path, content):
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("request.json", b'{"schema_version": 1, "subj', "cannot be read as JSON"),
        ("request.json", b"[]", "expected a JSON object"),
        ("request.json", b"{}", "schema_version"),
        ("request.json", b"\xff\xfe\x00", "cannot be read as JSON"),
        ("done.json", b"{}", "names and digests"),
        ("images/0000.png", b"", "images/0000.png has 0 bytes, not 7"),
    ],
)
def test_a_damaged_run_says_what_is_damaged(run, file, content, message):
    finished(run)
    (run.path / file).write_bytes(content)
    with pytest.raises(CorruptRunError, match=message):
        RunFolder.open(run.path)


def test_what_is_no_run_does_not_open(tmp_path, run):
    with pytest.raises(StoreError, match="no such run folder"):
        RunFolder.open(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorruptRunError, match="not a run folder"):
        RunFolder.open(tmp_path / "empty")
    (run.path / "request.json").write_text('{"schema_version": 99}')
    with pytest.raises(StoreError, match="newer Offbeat"):
        RunFolder.open(run.path)


def test_a_name_too_long_for_the_disk_is_an_error(tmp_path):
    for use in (RunFolder.open, lambda path: RunFolder.create(path, REQUEST)):
        with pytest.raises(StoreError, match="name is too long"):
            use(tmp_path / ("x" * 300))


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_what_a_killed_run_left_and_cannot_be_removed_does_no_harm(run, monkeypatch):
    for name in (".offbeat-1.tmp", "images/.offbeat-2.tmp"):
        run.write({name: b"x"})

    def refuse(path, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        RunFolder.create(run.path, REQUEST, resume=True)
    assert len(names(run.path)) == 3
    RunFolder.create(run.path, REQUEST, resume=True)
    assert names(run.path) == ["request.json"]


HOLDS = """
    import sys
    from offbeat.runs.folder import RunFolder
    run = RunFolder.create(sys.argv[1], {"seed": 1}, resume=True)
    print("held", flush=True)
    sys.stdin.readline()
    run.finish()
    print("finished", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.skipif(os.name == "nt", reason="no fcntl")
def test_one_process_at_a_time_works_on_a_run_and_any_may_read_it(tmp_path):
    def start():
        command = [sys.executable, "-c", textwrap.dedent(HOLDS), str(tmp_path / "run")]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "held\n"
        return process

    with start() as first:
        with pytest.raises(StoreError, match="another process is at work"):
            RunFolder.create(tmp_path / "run", {"seed": 1}, resume=True)
        assert RunFolder.open(tmp_path / "run").trace() == []
        first.kill()
    mine = RunFolder.create(tmp_path / "run", {"seed": 1}, resume=True)
    again = RunFolder.create(tmp_path / "run", {"seed": 1}, resume=True)  # this process may
    del mine, again
    with start() as second:
        second.stdin.write("\n")
        second.stdin.flush()
        assert second.stdout.readline() == "finished\n"
        assert RunFolder.create(tmp_path / "run", {"seed": 1}, resume=True).is_finished
        second.kill()
    assert names(tmp_path / "run") == ["done.json", "request.json"]


# --- trace


def test_a_cut_last_line_is_left_out_and_damage_elsewhere_is_an_error(run):
    rows = [{"step": step, "loss": float("nan"), "note": "é\u2028"} for step in range(3)]
    for row in rows:
        run.append_trace(row)
    file = run.path / "trace.jsonl"
    whole = file.read_bytes()
    expected = [{**row, "loss": None} for row in rows]
    for cut in range(1, len(whole) // 3):
        file.write_bytes(whole[:-cut])
        assert run.trace() == expected[:2]
    run.append_trace(rows[2])  # over the cut line
    assert run.trace() == expected
    assert file.read_bytes() == whole
    run.cut_trace(1)
    assert run.trace() == expected[:1]
    with pytest.raises(CorruptRunError, match="at least the 2 rows"):
        run.cut_trace(2)
    file.write_bytes(b'{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(CorruptRunError, match="line 2"):
        run.trace()


# --- checkpoint

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    leaves,
    lambda part: (
        st.lists(part, max_size=3)
        | st.tuples(part)
        | st.dictionaries(st.text() | st.integers(), part, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(trees)
def test_any_state_comes_back_as_it_was(tree):
    tensors = {}
    data = pack_tensors(tensors, disk.flatten({"tree": tree}, tensors))
    assert disk.unflatten(unpack_tensors(data)[1], {}) == {"tree": tree}


def test_an_optimizer_goes_on_from_its_checkpoint(run):
    assert run.load_checkpoint() is None
    weight = torch.nn.Parameter(torch.ones(3, 2).T)  # not contiguous
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.square().sum().backward()
    optimizer.step()
    generator = torch.Generator().manual_seed(1)
    state = {
        "step": 7,
        "best": None,
        "tokens": {"<offbeat>": weight, "same": weight},
        "optimizer": optimizer.state_dict(),
        "rng": generator.get_state(),
        "half": torch.tensor(1.5, dtype=torch.bfloat16),
    }
    run.save_checkpoint(state)
    back = RunFolder.open(run.path).load_checkpoint()
    optimizer.load_state_dict(back["optimizer"])
    assert back["step"] == 7
    assert back["half"].dtype == torch.bfloat16
    assert back["half"].shape == ()
    assert torch.equal(back["tokens"]["same"], weight)
    assert torch.equal(back["rng"], generator.get_state())
    assert back["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    with pytest.raises(TypeError, match="state"):
        run.save_checkpoint({"step": object()})


def test_a_full_disk_keeps_the_checkpoint_before(run, monkeypatch):
    run.save_checkpoint({"step": 1})
    full_disk(monkeypatch)
    with pytest.raises(StoreError, match="disk is full"):
        run.save_checkpoint({"step": 2})
    assert run.load_checkpoint() == {"step": 1}
    run.append_trace({"step": 0})  # whose own fsync now fails first
    with pytest.raises(StoreError, match=r"trace\.jsonl.*disk is full"):
        run.save_checkpoint({"step": 2})


@settings(max_examples=40, deadline=None)
@given(st.integers(min_value=0), st.integers(1, 255))
def test_any_changed_byte_of_a_tensor_file_is_noticed(at, flip):
    data = bytearray(pack_tensors({"a": torch.arange(6.0)}, {"k": [1, "x"]}))
    data[at % len(data)] ^= flip
    try:
        tensors, metadata = unpack_tensors(bytes(data))
    except ValueError:
        return
    # what cannot be noticed changes nothing: padding of the header
    assert torch.equal(tensors["a"], torch.arange(6.0))
    assert metadata == {"k": [1, "x"]}


def test_a_damaged_checkpoint_is_an_error(run):
    run.save_checkpoint({"weight": torch.ones(4)})
    file = run.path / "checkpoint" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CorruptRunError, match="checkpoint"):
        run.load_checkpoint()


def test_tensor_files_have_the_same_bytes_each_time():
    made = {pack_tensors({"b": torch.ones(2), "a": torch.zeros(1)}, {"x": 1}) for _ in range(8)}
    assert len(made) == 1


# --- the end


def test_a_finished_run_is_verified_and_moves_freely(run, tmp_path):
    run.save_checkpoint({"step": 1})
    finished(run)
    assert not (run.path / "checkpoint").exists()
    moved = RunFolder.open(run.path.rename(tmp_path / "moved"))
    moved.verify()
    (moved.path / "notes.txt").write_text("mine")
    moved.verify()
    (moved.path / "images" / "0000.png").write_bytes(b"changed")
    with pytest.raises(CorruptRunError, match=r"changed since the run: images/0000\.png"):
        moved.verify()


KILLED = """
    import os, random, signal, sys, time
    import torch
    from offbeat.errors import StoreError
    from offbeat.runs.folder import RunFolder

    out, last = sys.argv[1], 0
    for trial in range(500):
        if trial >= 25 and last > 0:
            break
        child = os.fork()
        if child == 0:
            run = RunFolder.create(out, {"seed": 1}, resume=True)
            state = run.load_checkpoint() or {"step": 0, "weight": torch.zeros(20000)}
            run.cut_trace(state["step"])
            while True:
                run.append_trace({"step": state["step"]})
                state = {"step": state["step"] + 1, "weight": state["weight"] + 1}
                run.save_checkpoint(state)
        time.sleep(random.Random(trial).uniform(0, 0.06) * (1 + trial / 25))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if not os.path.exists(os.path.join(out, "request.json")):
            continue  # killed before the run was made: made by the next
        run = RunFolder.open(out)
        state = run.load_checkpoint() or {"step": 0, "weight": torch.zeros(20000)}
        assert bool((state["weight"] == state["step"]).all())
        assert [row["step"] for row in run.trace()][: state["step"]] == list(range(state["step"]))
        assert state["step"] >= last
        last = state["step"]
    assert last > 0
    RunFolder.create(out, {"seed": 1}, resume=True).finish()
    run.verify()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_run_killed_at_any_moment_opens_and_goes_on(tmp_path):
    out = tmp_path / "run"
    code = textwrap.dedent(KILLED)
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert names(out) == ["done.json", "request.json", "trace.jsonl"]


# --- cache


def test_the_cache_builds_once_and_gives_the_same_values():
    calls = []

    def build():
        calls.append(1)
        return {"mean": torch.rand(4)}, {"kept": 0.96, "ks": (1, 2)}

    key = {"prompt": "a picture of a pig", "num": 5000}
    first = cached("baselines", key, build)
    again = cached("baselines", dict(reversed(key.items())), build)
    assert len(calls) == 1
    assert torch.equal(first[0]["mean"], again[0]["mean"])
    assert first[1] == again[1] == {"kept": 0.96, "ks": [1, 2]}
    cached("baselines", {**key, "num": 4999}, build)
    assert len(calls) == 2


def test_a_damaged_cache_entry_is_built_anew(tmp_path):
    def build():
        return {"mean": torch.ones(4)}, {}

    cached("baselines", {}, build)
    (entry,) = (tmp_path / "cache" / "baselines").iterdir()
    whole = entry.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + b"x", b"", b"\xff" * 40):
        entry.write_bytes(damaged)
        with pytest.warns(UserWarning, match="computed again"):
            tensors, _ = cached("baselines", {}, build)
        assert torch.equal(tensors["mean"], torch.ones(4))
        assert entry.read_bytes() == whole


def test_a_cache_that_cannot_be_written_only_warns(tmp_path, monkeypatch):
    full_disk(monkeypatch)
    with pytest.warns(UserWarning, match="disk is full"):
        tensors, _ = cached("baselines", {}, lambda: ({"mean": torch.ones(4)}, {}))
    assert torch.equal(tensors["mean"], torch.ones(4))
    assert names(tmp_path) == []


def test_what_killed_processes_left_in_the_cache_goes_after_a_day(tmp_path):
    folder = tmp_path / "cache" / "baselines"
    folder.mkdir(parents=True)
    for name, hours in (("old", 25), ("young", 23)):
        temp = folder / f".offbeat-{name}.tmp"
        temp.write_bytes(b"x")
        then = time.time() - hours * 3600
        os.utime(temp, (then, then))
    cached("baselines", {}, lambda: ({"mean": torch.ones(4)}, {}))
    assert [path.name for path in folder.glob(".*")] == [".offbeat-young.tmp"]


def test_a_user_without_a_home_does_without_the_cache(monkeypatch):
    for name in ("OFFBEAT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.warns(UserWarning, match=r"not used.*set OFFBEAT_CACHE"):
        tensors, _ = cached("baselines", {}, lambda: ({"mean": torch.ones(4)}, {}))
    assert torch.equal(tensors["mean"], torch.ones(4))
    with pytest.raises(StoreError, match="OFFBEAT_CACHE"):
        cache_folder()


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("OFFBEAT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "offbeat"


def test_a_request_of_before_may_lack_device_and_dtype_and_nothing_else(tmp_path):
    RunFolder.create(tmp_path / "run", {"seed": 1})
    asked = {"seed": 1, "device": "cpu", "dtype": "float32"}
    assert RunFolder.create(tmp_path / "run", asked, resume=True).request == {"seed": 1}
    with pytest.raises(ResumeError, match="strength"):
        RunFolder.create(tmp_path / "run", {**asked, "strength": 1}, resume=True)
    RunFolder.create(tmp_path / "new", asked)
    with pytest.raises(ResumeError, match="dtype"):
        RunFolder.create(tmp_path / "new", {**asked, "dtype": "bfloat16"}, resume=True)
