"""Archives: what is kept is the best of its place, and a kill costs nothing."""

import json
import math

import pytest

pytest.importorskip("ribs", reason="pip install 'offbeat[qd]'")

import torch

import offbeat
from offbeat.errors import ConfigError, MissingExtraError
from offbeat.scale import archive as module
from offbeat.scale.local import LocalEngine
from offbeat.scale.looking import Descriptors
from offbeat.scale.space import ConceptSpace

SMALL = {
    "evaluations": 12, "batch_size": 2, "cells": 3, "num_images": 1, "num_inference_steps": 1,
    "emitters": ("mutation", "line", "words"),  # CMA-ES is compiled first, which takes long
}  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(module, "NUM_FIT", 8)
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path_factory.getbasetemp() / "archive-cache"))


@pytest.fixture(scope="module")
def whole(pocket, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NUM_FIT", 8)
        patch.setenv("OFFBEAT_CACHE", str(tmp_path_factory.getbasetemp() / "archive-cache"))
        out = tmp_path_factory.mktemp("archive") / "whole"
        return offbeat.archive("teapot", backbone=pocket, out=out, **SMALL)


def test_the_best_of_each_place_is_kept(whole):
    seen = [
        (quality, place)
        for row in whole.trace
        for quality, place in zip(row["quality"], row["places"], strict=True)
    ]
    assert len(seen) == whole.summary["evaluations"] >= 12
    (low, high), (bottom, top) = whole.summary["ranges"]

    def cell(place):
        column = min(2, max(0, math.floor((place[0] - low) / (high - low) * 3)))
        row = min(2, max(0, math.floor((place[1] - bottom) / (top - bottom) * 3)))
        return column * 3 + row

    best = {}
    for quality, place in seen:
        if quality >= 0.5:  # less than half of the pictures pass: not kept anywhere
            best[cell(place)] = max(quality, best.get(cell(place), -1.0))
    kept = {elite["cell"]: elite["quality"] for elite in whole.summary["elites"]}
    assert len(best) < len({cell(place) for _, place in seen})  # some places hold nothing valid
    assert kept == pytest.approx(best)
    assert whole.summary["coverage"] == pytest.approx(len(best) / 9)
    assert whole.summary["qd_score"] == pytest.approx(sum(best.values()))
    assert {"contact.png", "map.png", "curve.png"} <= whole.files.keys()
    assert not whole.summary["warnings"]


def test_a_killed_archive_goes_on_to_the_same_bytes(pocket, whole, tmp_path):
    def stop(stage, done, total, values):
        if stage == "concepts":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        offbeat.archive("teapot", backbone=pocket, out=tmp_path / "a", observe=stop, **SMALL)
    asked = {"backbone": pocket, "out": tmp_path / "a", "resume": True}
    again = offbeat.archive("teapot", **asked, **SMALL)
    done = [json.loads((run.folder / "done.json").read_text()) for run in (again, whole)]
    assert done[0] == done[1]
    assert offbeat.archive("teapot", **asked, **SMALL).summary == whole.summary  # it is finished


def test_workers_change_no_byte(whole, tmp_path):
    engine = LocalEngine(2)
    shared = offbeat.archive("teapot", engine=engine, out=tmp_path / "a", **SMALL)
    engine.close()
    assert shared.summary == whole.summary


def test_elites_are_concepts_for_other_commands(pocket, whole, tmp_path):
    first = f"{whole.folder}:0"
    drawn = offbeat.render(first, backbone=pocket, num_images=1, prompt="a red {concept}")
    assert len(drawn.images) == 1
    last = f"{whole.folder}:{len(whole.concepts) - 1}"
    path = offbeat.sweep(first, last, num=3, num_images=1, backbone=pocket)
    ends = [next(iter(concept.token_embeds.values())) for concept in path.concepts]
    torch.testing.assert_close(ends[1], (ends[0] + ends[2]) / 2)
    mixed = offbeat.fuse({first: 1, last: 1}, num_images=1, backbone=pocket)
    torch.testing.assert_close(next(iter(mixed.concept.token_embeds.values())), ends[1])
    assert offbeat.export_concept(first, out=tmp_path)[0].exists()


def test_rivals_and_axes(pocket):
    run = offbeat.archive(
        "teapot", axes=("round..long", "with:castle"), kind="cvt",
        backbone=pocket, **SMALL | {"emitters": ("seeds",)},
    )  # fmt: skip
    assert all(elite["point"] == [0.0] * 16 for elite in run.summary["elites"])
    assert run.summary["axes"] == ["round..long", "with:castle"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"axes": ("round",)}, "axis: expected learned, 'round..spiky'"),
        ({"axes": ("a..b",) * 3}, "axis: expected at most 2"),
        ({"emitters": ("nobody",)}, "emitters: expected some of mutation"),
        ({"kind": "sphere"}, "kind: expected one of grid, cvt"),
        ({"cells": 1}, "cells: expected a whole number"),
        ({"judge": "none"}, "quality: validity needs a judge"),
    ],
)
def test_bad_settings(pocket, change, says):
    with pytest.raises(ConfigError, match=says):
        offbeat.archive("teapot", backbone=pocket, **{**SMALL, **change})


def test_without_pyribs_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'offbeat\[qd\]'"):
        offbeat.archive("teapot")


def test_the_space_begins_at_the_subject_and_holds_what_runs_learned(pocket):
    plain = ConceptSpace.of(pocket, "teapot", num_axes=4)
    assert torch.equal(plain.concept(torch.zeros(4)).token_embeds["<offbeat>"][0], plain.origin)
    point = torch.tensor([1.0, -0.5, 0.25, 2.0])
    token = plain.concept(point).token_embeds["<offbeat>"][0]
    torch.testing.assert_close(plain.coordinates(token), point, atol=1e-4, rtol=0)
    lora = pocket.init_lora(2, generator=torch.Generator().manual_seed(0))
    learned = offbeat.Concept(
        template=plain.template,
        subject="teapot",
        token_embeds={"<offbeat>": plain.origin[None] + 1},
        lora={name: torch.ones_like(factor) for name, factor in lora.items()},
    )
    space = ConceptSpace.of(pocket, "teapot", num_axes=4, runs=[learned, learned])
    made = space.concept(torch.tensor([0.0] * 4 + [0.25, 0.5]))
    torch.testing.assert_close(made.token_embeds["<offbeat>"][0], plain.origin + 0.75)
    name = next(name for name in lora if ".lora_A." in name)
    down, up = made.lora[name], made.lora[name.replace("lora_A", "lora_B")]
    torch.testing.assert_close(up @ down, torch.full_like(up @ down, 2 * 0.75))  # ranks add up


def test_places_follow_the_axes():
    seen = [{"features": [float(i), 0.0], "read": [2.0 * i]} for i in range(5)]
    found = Descriptors.fit(("a..b", "learned"), seen)
    places = found.places(seen)
    assert places[:, 0].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert places[:, 1].tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert found.ranges[0][0] < 0.2
    assert found.ranges[0][1] > 7.8
