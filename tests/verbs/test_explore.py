"""Whole runs on pocket, small: what is written, repeats, is refused."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import offbeat
from offbeat.errors import (
    CapabilityError,
    CheckpointError,
    ConfigError,
    CorruptRunError,
    FingerprintError,
    ImageError,
    PromptError,
    ResumeError,
    StoreError,
    UnknownNameError,
)
from offbeat.files.concept import LORA_FILE
from offbeat.files.png import read_recipe
from offbeat.methods.low_probability.config import PRIOR_STEPS, LowProbabilityConfig
from offbeat.methods.low_probability.method import LowProbability
from offbeat.runs.folder import RunFolder
from offbeat.types import Verdict
from offbeat.verbs.explore_plan import Trial

SMALL = LowProbabilityConfig(
    num_baseline=60, num_held_out=20, num_components=4, num_steps=10, num_probes=8, probe_every=5,
    judge_every=5, num_judged=1, lora_rank=2, quantile=0.999,
    use_support=False,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    before = os.environ.get("OFFBEAT_CACHE")
    os.environ["OFFBEAT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("OFFBEAT_CACHE")
    if before is not None:
        os.environ["OFFBEAT_CACHE"] = before


def explore(pocket, out=None, subject="handbag", **kwargs):
    settings = {"config": SMALL, "num_images": 2, "judge": "none", "backbone": pocket,
                "directions": 1, "candidates": 1, **kwargs}  # fmt: skip
    return offbeat.explore(subject, out=out, **settings)


@pytest.fixture(scope="module")
def done(pocket, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "handbag"
    return explore(pocket, folder, judge="auto")


def test_a_run_folder_holds_what_it_should(done):
    for name in (
        "request.json", "trace.jsonl", "concept.safetensors", LORA_FILE,
        "baseline.safetensors", "images/0001.png", "ordinary/0001.png", "contact.png", "map.png",
        "curve.png", "report.html", "summary.json",
    ):  # fmt: skip
        assert (done.folder / name).stat().st_size > 0, name
    assert not (done.folder / "checkpoint").exists()
    RunFolder.open(done.folder).verify()
    report = (done.folder / "report.html").read_text()
    assert "http://" not in report.replace("http://www.w3.org", "")
    recipe = read_recipe(done.folder / "images/0001.png")
    assert recipe["subject"] == "handbag"
    assert recipe["index"] == 1
    assert recipe["request"]["fingerprint"] == done.request["fingerprint"]
    with Image.open(done.folder / "images/0001.png") as picture:
        assert "Model: pocket" in picture.info["parameters"]


def test_the_judge_s_answers_are_in_trace_and_summary(done):
    asked = [row["verdict"] for row in done.trace if row["verdict"]]
    assert asked
    assert {"answer", "probability", "judge", "note"} <= asked[0].keys()
    assert all(image["verdict"] for image in done.summary["images"])


def test_five_lines_of_python_and_saved_is_as_written(pocket, tmp_path):
    run = explore(pocket)
    assert len(run.images) == len(run.ordinary) == 2
    assert run.folder is None
    saved = run.save(tmp_path / "saved")
    again = offbeat.load_run(saved)
    assert [p.tobytes() for p in again.images] == [p.tobytes() for p in run.images]
    assert again.concept.prompt() == run.concept.prompt()
    with pytest.raises(StoreError):
        run.save(saved)


def test_the_same_seed_gives_the_same_bytes_and_more_pictures_change_none(pocket, tmp_path):
    one = explore(pocket, tmp_path / "one")
    two = explore(pocket, tmp_path / "two")
    for name in one.files:
        if name.startswith(("images/", "ordinary/", "concept", "lora/")):
            assert one.files[name] == two.files[name], name
    more = explore(pocket, num_images=3)
    for few, many in zip(one.images, more.images, strict=False):
        gap = np.abs(np.asarray(few, dtype=int) - np.asarray(many, dtype=int))
        assert gap.max() <= 1  # a batch of another size adds up in another order


def test_the_best_of_several_trials_is_kept(pocket):
    run = explore(pocket, num_trials=2)
    best = max(run.summary["trials"], key=lambda trial: trial["distance_median"])
    assert run.summary["trial"] == best["trial"]
    assert {row["trial"] for row in run.trace} == {0, 1}


def test_a_run_a_step_of_it_and_pictures_can_be_avoided(pocket, done, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    Image.new("RGB", (32, 48), "teal").save(mine / "a.png")
    config = replace(SMALL, num_steps=2)
    sources = (str(done.folder), f"{done.folder}:5")
    run = explore(pocket, avoid=sources, unlike=[mine], config=config)
    assert [len(row["avoid"]) for row in run.trace] == [3, 3]
    with pytest.raises(StoreError, match="one of 5"):
        explore(pocket, avoid=(f"{done.folder}:7",), config=config)
    with pytest.raises(StoreError, match="no such search"):
        explore(pocket, avoid=(f"{done.folder}:9.5",), config=config)


def test_render_draws_the_concept_in_another_prompt(pocket, done, tmp_path):
    run = offbeat.render(
        done.folder, prompt="a red {concept}", num_images=1, backbone=pocket, out=tmp_path / "r"
    )
    recipe = read_recipe(tmp_path / "r/images/0000.png")
    assert recipe["prompt"] == "a red <handbag>"
    assert len(run.images) == 1
    own = offbeat.render(done, num_images=2, seed=done.summary["seed"], backbone=pocket)
    assert [p.tobytes() for p in own.images] == [p.tobytes() for p in done.images]
    with pytest.raises(PromptError, match="concept"):
        offbeat.render(done, prompt="a red bag", backbone=pocket)


def test_a_rendered_recipe_names_what_was_learned(pocket, done, tmp_path):
    offbeat.render(done.folder, num_images=1, backbone=pocket, out=tmp_path / "r")
    recipe = read_recipe(tmp_path / "r/images/0000.png")
    assert recipe["learned"]["request"]["config"]["num_steps"] == SMALL.num_steps
    assert recipe["learned"]["seed"] == done.summary["seed"]
    assert recipe["prior"]["num_inference_steps"] == PRIOR_STEPS
    with Image.open(done.folder / "images/0001.png") as picture:
        assert "Offbeat novelty: 0.999" in picture.info["parameters"]


def test_what_generate_wrote_is_read_again(pocket, tmp_path):
    run = offbeat.generate("a red castle", num_images=1, backbone=pocket, out=tmp_path / "g")
    again = offbeat.load_run(tmp_path / "g")
    assert [p.tobytes() for p in again.images] == [p.tobytes() for p in run.images]


def test_an_embedding_itself_takes_no_prompt(pocket):
    run = explore(pocket, config=replace(SMALL, space="direct", num_steps=2), num_images=1)
    with pytest.raises(PromptError, match="--space direct"):
        offbeat.render(run, prompt="a red {concept}", backbone=pocket)


def test_a_checkpoint_without_a_vocabulary_can_be_explored(tiny_backbone):
    config = replace(SMALL, num_steps=2, num_components=3, prior_num_inference_steps=2)
    run = explore(tiny_backbone, judge="auto", config=config, num_images=1)
    assert run.summary["judge"].startswith("clip")
    warned = [any("own towers" in w for w in run.summary["warnings"])]
    free = explore(
        tiny_backbone, judge="auto", config=replace(config, use_anchor=False), num_images=1
    )
    assert [*warned, any("own towers" in w for w in free.summary["warnings"])] == [True, False]


def test_a_judge_that_needs_no_calibration_may_have_none(pocket, monkeypatch):
    class Plain:
        name = "plain"

        def still_a(self, images, subject):
            return [Verdict("yes", 1.0, self.name)] * len(images)

    known = {"judge": Plain, "method": LowProbability}
    monkeypatch.setattr("offbeat.registry.find", lambda kind, name: known[kind])
    assert explore(pocket, judge="plain", num_images=1).summary["validity"] == 1


def test_steps_alone_run_away_as_published_and_a_reach_leaves_no_novelty(pocket):
    run = explore(pocket, num_steps=1, num_images=1)
    assert run.summary["target_distance"] is None
    far = explore(pocket, reach=1.1, num_images=1, config=replace(SMALL, num_steps=2))
    assert far.summary["target_novelty"] is far.summary["target_seen"] is None
    assert far.summary["target_distance"] > 0


def test_a_subject_that_it_was_not_taught_is_warned_about(pocket):
    run = explore(pocket, subject="zeitgeist", num_images=1, config=replace(SMALL, num_steps=1))
    assert any("not among the things" in warning for warning in run.summary["warnings"])


def test_a_concept_of_another_checkpoint_is_refused(done, tiny_backbone):
    with pytest.raises(FingerprintError, match="learned on pocket"):
        offbeat.render(done, backbone=tiny_backbone)


def test_a_resume_with_other_settings_says_which(pocket, done):
    with pytest.raises(ResumeError, match="seed: got 1, expected 0"):
        explore(pocket, done.folder, judge="auto", seed=1, resume=True)
    with pytest.raises(StoreError, match="--resume"):
        explore(pocket, done.folder, judge="auto")


def test_a_corrupt_run_folder_is_noticed(pocket, tmp_path):
    run = explore(pocket, tmp_path / "run")
    (run.folder / "concept.safetensors").write_bytes(b"x")
    with pytest.raises(CorruptRunError, match="concept"):
        offbeat.load_run(run.folder)


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"subject": "  "}, PromptError),
        ({"subject": "bag " * 100}, PromptError),
        ({"quantile": 1.5}, ValueError),
        ({"novelty": 101}, ValueError),
        ({"directions": 0}, ConfigError),
        ({"candidates": 0}, ConfigError),
        ({"novelty": 0.9, "reach": 2.0}, ConfigError),
        ({"num_images": 0}, ConfigError),
        ({"prompt": "a picture"}, PromptError),
        ({"judge": "oracle"}, UnknownNameError),
        ({"judge": "scripted"}, UnknownNameError),
        ({"config": replace(SMALL, num_components=2000, num_baseline=9000)}, ConfigError),
        ({"unlike": ["absent"]}, ImageError),
        ({"avoid": ["absent"]}, StoreError),
        ({"backbone": "absent"}, (CheckpointError, UnknownNameError)),
        ({"device": "warp", "backbone": "pocket"}, ConfigError),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(pocket, tmp_path, kwargs, error):
    with pytest.raises(error):
        explore(pocket, tmp_path / "out", **kwargs)
    assert not (tmp_path / "out").exists()


def test_a_backbone_without_a_prior_is_refused():
    with pytest.raises(CapabilityError, match="token_embed"):
        explore(object())


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (["yes"] * 19 + ["no"], ["yes"] + ["unknown"] * 19),
        (["yes"] * 3, ["unknown"] * 3),
        (["yes"], []),
    ],
)
def test_a_trial_that_was_not_answered_for_does_not_beat_one_that_was_passed(better, worse):
    def trial(answers, number):
        verdicts = [Verdict(answer, 0.5, "judge") for answer in answers]
        chosen = SimpleNamespace(drawn_verdicts=verdicts)
        # the worse one is further, looks newer and came first
        return SimpleNamespace(
            chosen=chosen, seen=float(number), readings={"distance_median": float(number)}, number=0
        )

    assert Trial.rank(trial(better, 1)) > Trial.rank(trial(worse, 9))
