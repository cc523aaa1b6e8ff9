"""What a person steers by: previews, kept steps, regions to avoid, walks, quick pictures."""

import pytest
import torch
from PIL import Image

import offbeat
from offbeat.errors import ConfigError, StoreError, VocabularyError
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.runs.folder import RunFolder
from offbeat.runs.map import Region
from offbeat.verbs.sketch import concept_of, dreamt, mixture, sketch
from offbeat.verbs.walk import walk

SMALL = LowProbabilityConfig(
    num_baseline=60, num_held_out=20, num_components=4, num_steps=6, num_probes=8, probe_every=3,
    judge_every=6, num_judged=1, lora_rank=2, learning_rate=1e-3, quantile=0.999,
    use_support=False,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("OFFBEAT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def explore(pocket, **kwargs):
    settings = {"config": SMALL, "num_images": 1, "judge": "none", "backbone": pocket,
                "directions": 1, "candidates": 1, **kwargs}  # fmt: skip
    return offbeat.explore("handbag", **settings)


@pytest.fixture(scope="module")
def seen(pocket, tmp_path_factory):
    """A run with previews, and all that its observer was told."""
    told = []
    folder = tmp_path_factory.mktemp("runs") / "handbag"
    explore(pocket, out=folder, preview_every=3, observe=lambda *report: told.append(report))
    return folder, told


def test_previews_come_first_are_kept_and_change_nothing(pocket, seen):
    folder, told = seen
    assert [stage for stage, *_ in told][:3] == ["preview", "drawing", "ordinary ones"]
    shown = [(values["at"], values["files"]) for stage, *_, values in told if stage == "preview"]
    assert [at for at, _ in shown] == [0, 3, 6]
    for _, files in shown:  # four, each of its own noise
        drawn = set()
        for file in files:
            with Image.open(folder / file) as picture:
                assert picture.size == (128, 128)
                drawn.add(picture.tobytes())
        assert len(drawn) == 4
    assert (folder / "trials/0/states/0003/concept.safetensors").exists()
    stages = [stage for stage, *_ in told]
    assert stages.index("ordinary ones") < stages.index("searching")
    measured = next(values for *_, values in told if values.get("measured"))
    assert measured
    quiet = explore(pocket)
    kept = RunFolder.open(folder)
    assert quiet.files["images/0000.png"] == kept.read("images/0000.png")
    assert quiet.files["ordinary/0000.png"] == kept.read("ordinary/0000.png")


def test_a_search_goes_on_from_a_step_that_was_kept(pocket, seen):
    folder, _ = seen
    more = explore(pocket, start=f"{folder}:3", num_steps=1, reach=1.0)
    assert more.request["start"] == f"{folder}:3"
    fresh = explore(pocket, num_steps=1, reach=1.0)
    begin = concept_of(fresh).token_embeds["<offbeat>"]
    begun = concept_of(more).token_embeds["<offbeat>"]
    there = concept_of(str(folder / "trials/0/states/0003/concept.safetensors"))
    near = (begun - there.token_embeds["<offbeat>"]).abs().max()
    assert near < (begin - there.token_embeds["<offbeat>"]).abs().max()
    with pytest.raises(ConfigError, match="lora_rank"):
        explore(pocket, start=folder, config={"lora_rank": 3, "num_baseline": 60})
    with pytest.raises(StoreError, match="one of 3, 6"):
        explore(pocket, start=f"{folder}:4")


def test_pictures_of_a_direction_are_kept_before_the_next_begins(pocket, tmp_path):
    class Stop(Exception):
        pass

    told = []

    def observe(stage, done, total, values):
        told.append(stage)
        if stage == "directions":
            assert [(tmp_path / "run" / file).exists() for file in values["files"]] == [True]
            raise Stop

    asked = {"directions": 2, "num_steps": 2, "reach": 1.2, "out": tmp_path / "run"}
    with pytest.raises(Stop):
        explore(pocket, **asked, observe=observe)
    kept = (tmp_path / "run" / "images" / "0000.png").read_bytes()
    explore(pocket, **asked, resume=True)
    assert (tmp_path / "run" / "images" / "0000.png").read_bytes() == kept
    assert (tmp_path / "run" / "images" / "0001.png").exists()
    # the second direction is named by its search
    second = explore(pocket, start=f"{tmp_path / 'run'}:1.end", num_steps=1, reach=1.0)
    begun = concept_of(second).token_embeds["<offbeat>"]
    ends = [concept_of(str(tmp_path / "run" / f"trials/{n}/concept.safetensors")) for n in (0, 1)]
    gaps = [(begun - end.token_embeds["<offbeat>"]).abs().max() for end in ends]
    assert gaps[1] < gaps[0]
    with pytest.raises(StoreError, match="trial 2"):
        explore(pocket, start=f"{tmp_path / 'run'}:2.end", num_steps=1, reach=1.0)


def test_a_region_of_the_map_and_picked_pictures_can_be_avoided(pocket, seen):
    folder, _ = seen
    wide = [(-100.0, -100.0), (100.0, -100.0), (100.0, 100.0), (-100.0, 100.0)]
    run_away = explore(
        pocket,
        num_steps=1,
        avoid=[Region(run=str(folder), region=wide, step=3)],
        unlike=[[folder / "images/0000.png", folder / "ordinary/0000.png"]],
    )
    assert len(run_away.trace[0]["avoid"]) == 2
    assert run_away.request["avoid"][0]["step"] == 3
    nowhere = [(900.0, 900.0), (901.0, 900.0), (900.0, 901.0)]
    with pytest.raises(ConfigError, match="0 samples lie inside"):
        explore(pocket, avoid=[Region(run=str(folder), region=nowhere)])


def test_a_walk_leads_between_two_finds(pocket, tmp_path):
    dreams = offbeat.dream(2, judge="none", backbone=pocket, out=tmp_path / "dreams")
    ends = f"{tmp_path}/dreams:0", f"{tmp_path}/dreams:1"
    way = walk(*ends, num=3, backbone=pocket, out=tmp_path / "way")
    first, middle, last = (next(iter(one.token_embeds.values())) for one in way.concepts)
    torch.testing.assert_close(middle, (first + last) / 2)
    torch.testing.assert_close(last, next(iter(dreams.concepts[1].token_embeds.values())))
    end = offbeat.render(ends[1], num_images=1, backbone=pocket)
    assert way.images[2].tobytes() == end.images[0].tobytes()
    again = offbeat.load_run(tmp_path / "way")
    assert [row["share"] for row in again.summary["concepts"]] == [0, 0.5, 1]
    direct = explore(pocket, num_steps=1, space="direct")
    with pytest.raises(ConfigError, match="one learned token"):
        walk(direct, direct, backbone=pocket)


def test_a_walk_between_explorations_joins_what_their_factors_add(pocket):
    ends = [explore(pocket, num_steps=3, reach=1.2, seed=seed) for seed in (0, 1)]
    way = walk(*ends, num=3, backbone=pocket)
    assert [image.tobytes() for image in (way.images[0], way.images[2])] == [
        offbeat.render(end, num_images=1, backbone=pocket).images[0].tobytes() for end in ends
    ]
    added = [one.lora for one in (ends[0].concept, way.concepts[1], ends[1].concept)]
    names = [name for name in added[0] if ".lora_A." in name]
    assert names
    for name in names:
        first, middle, last = (
            factors[name.replace("_A.", "_B.")] @ factors[name] for factors in added
        )
        torch.testing.assert_close(middle, (first + last) / 2)


def test_a_sketch_shows_what_the_verb_would(pocket):
    made = mixture({"pig": 2.0, "owl": 2.0}, backbone=pocket)
    whole = offbeat.fuse({"pig": 1, "owl": 1}, num_images=1, judge="none", backbone=pocket)
    torch.testing.assert_close(dict(made.token_embeds), dict(whole.concept.token_embeds))
    steps = pocket.card["num_inference_steps"]
    picture = sketch(made, num_inference_steps=steps, backbone=pocket)
    assert picture.tobytes() == whole.images[0].tobytes()
    dream = offbeat.dream(1, law="cauchy", seed=5, judge="none", backbone=pocket).concept
    thrown = dreamt(law="cauchy", seed=5, backbone=pocket)
    torch.testing.assert_close(dict(thrown.token_embeds), dict(dream.token_embeds))
    with pytest.raises(VocabularyError):
        mixture({"pig": 1, "no such word": 1}, backbone=pocket)
