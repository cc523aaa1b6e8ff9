"""`explore` by a method that draws a subject its own way: what is written, resumed and refused."""

import json

import pytest
from typer.testing import CliRunner

from offbeat import cli, load_backbone, load_run, render
from offbeat.errors import CapabilityError, ConfigError, ResumeError, StoreError
from offbeat.files.png import read_recipe
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.verbs.explore import explore

COMMON = {"method": "cads", "config": {"num_inference_steps": 4}}


@pytest.fixture(scope="module")
def quick():
    """pocket-sd in fewer steps: how well it draws is not the matter here."""
    backbone = load_backbone("pocket-sd")
    backbone._card["num_inference_steps"] = 3
    return backbone


@pytest.fixture(scope="module")
def done(quick, tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn") / "run"
    return explore("handbag", num_images=5, backbone=quick, out=out, **COMMON)


def test_a_run_is_written_and_read_back(done):
    again = load_run(done.folder)
    assert (len(again.images), len(again.ordinary), again.concepts) == (5, 5, [])
    assert again.summary == done.summary
    assert done.summary["evaluations"] == {"denoiser": 5 * 4 * 2, "prior": 0}
    assert done.summary["evaluations_per_picture"] == 8
    assert 0 < done.summary["mean_distance_ordinary"] < 2
    assert len(done.summary["images"]) == 5
    assert 0 <= done.summary["validity"] <= 1
    names = {path.name for path in done.folder.iterdir()}
    assert {"request.json", "contact.png", "report.html", "images", "ordinary"} <= names
    recipe = read_recipe(done.folder / "images" / "0004.png")
    assert recipe["prompt"] == "a picture of a <handbag>"
    assert (recipe["method"], recipe["index"], recipe["num_inference_steps"]) == ("cads", 4, 4)
    alone = read_recipe(done.folder / "ordinary" / "0001.png")
    assert (alone["prompt"], alone["method"]) == ("a picture of a handbag", "ordinary")
    with pytest.raises(StoreError, match="learns no concept"):
        _ = done.concept
    with pytest.raises(StoreError, match="learned no concept"):
        render(done.folder)


def test_a_stopped_run_goes_on_to_the_same_bytes(done, quick, tmp_path):
    def stop(stage, number, total, values):
        if (stage, number) == ("drawing its own way", 2):
            raise KeyboardInterrupt

    out = tmp_path / "run"
    settings = {"num_images": 5, "backbone": quick, "out": out, **COMMON}
    with pytest.raises(KeyboardInterrupt):
        explore("handbag", observe=stop, **settings)
    with pytest.raises(ResumeError):
        explore("handbag", resume=True, **{**settings, "num_images": 4})
    again = explore("handbag", resume=True, **settings)
    assert again.files == done.files


def test_pocket_with_its_prior_is_drawn_from_too(pocket):
    run = explore("owl", method="raw-prompt", num_images=1, backbone=pocket, judge="none")
    assert run.summary["evaluations"] == {"denoiser": 20 * 2, "prior": 10 * 2}
    assert run.request["config"]["phrase"] == "creative {subject}"


@pytest.mark.parametrize("method", ["cads", "best-of-n", "adaptive-negatives"])
def test_a_word_that_the_judge_does_not_know_is_drawn_all_the_same(quick, method):
    run = explore("zeitgeist", num_images=1, backbone=quick, method=method)
    assert run.summary["validity"] is None
    assert "does not know 'zeitgeist'" in run.summary["warnings"][0]
    asked = [row for row in run.trace if row.get("negatives", [[]])[0]]
    assert bool(asked) == (method == "adaptive-negatives")


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"novelty": 0.9}, ConfigError, "novelty: applies? only to method"),
        ({"num_trials": 2, "avoid": ("x",)}, ConfigError, "num_trials, avoid: apply only to"),
        ({"config": LowProbabilityConfig()}, ConfigError, "settings of cads by name"),
        ({"config": {"tau": 1}}, ConfigError, "expected a setting of cads"),
        ({"method": "magicmix"}, ConfigError, "explores no subject"),
        ({"judge": "clip"}, CapabilityError, "clip judge"),
        ({"method": "adaptive-negatives", "judge": "none"}, ConfigError, "names what it sees"),
    ],
)
def test_what_cannot_be_is_refused(quick, settings, error, said):
    with pytest.raises(error, match=said):
        explore("handbag", num_images=1, backbone=quick, **{"method": "cads", **settings})


def test_a_method_that_works_on_text_needs_a_checkpoint_that_draws_from_it(pocket):
    with pytest.raises(CapabilityError, match="`draw_text`"):
        explore("handbag", method="cads", num_images=1, backbone=pocket)


def test_from_the_command_line(tmp_path):
    def run(*arguments):
        return CliRunner().invoke(cli.app, ["explore", "handbag", "-n", "1", *arguments])

    out = tmp_path / "run"
    result = run("--method", "guidance-interval", "--set", "num_inference_steps=3",
                 "--set", "sigma_high=2", "--judge", "none", "--out", str(out))  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "network evaluations each" in result.stdout
    request = json.loads((out / "request.json").read_text())
    assert (request["checkpoint"], request["config"]["sigma_high"]) == ("pocket-sd", 2)
    for refused, said in [
        (("--method", "cads", "--rule", "sum"), "rule: applies only to method"),
        (("--method", "cads", "--novelty", "0.9"), "novelty: applies only to method"),
        (("--set", "novelty=0.5"), "novelty has an option of its own"),
        (("--set", "nonsense=0.5"), "expected a setting of low-probability"),
    ]:
        result = run(*refused, "--out", str(tmp_path / "no"))
        assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
