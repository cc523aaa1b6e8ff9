"""One run on several workers: the same bytes as on one."""

import json

import pytest

import offbeat
import tiny
from offbeat.errors import OffbeatError
from offbeat.scale.local import LocalEngine
from offbeat.scale.split import split

SMALL = {
    "num_steps": 1, "num_images": 5, "directions": 2, "candidates": 1, "judge": "none",
    "config": {"num_baseline": 600, "num_held_out": 40, "num_components": 4, "use_support": False},
}  # fmt: skip


def test_a_split_exploration_is_the_same_run(tmp_path, monkeypatch):
    source = str(tiny.build(tmp_path / "tiny", "2.2"))
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path / "one"))
    alone = offbeat.explore("cat", backbone=source, out=tmp_path / "alone", **SMALL)
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path / "two"))
    engine = LocalEngine(2)
    told = []
    with split(source, engine):
        shared = offbeat.explore("cat", backbone=source, out=tmp_path / "shared", **SMALL)
        done = [json.loads((run.folder / "done.json").read_text()) for run in (alone, shared)]
        assert done[0] == done[1]
        assert shared.evaluations == alone.evaluations
    with split(str(tmp_path / "nowhere"), engine), pytest.raises(OffbeatError, match="nowhere"):
        offbeat.generate("a cat", num_images=1, backbone=source, observe=lambda *a: told.append(a))
    engine.close()
