"""``offbeat generate`` by both forms of checkpoint, from the command line to the files."""

import pytest
from typer.testing import CliRunner

import offbeat
import tiny
from offbeat import cli
from offbeat.files.png import read_recipe

RUNNER = CliRunner()


def run(*arguments):
    return RUNNER.invoke(cli.app, ["generate", *map(str, arguments)])


@pytest.mark.parametrize("form", ["2.2", "xl"])
def test_a_folder_of_either_form_draws_and_says_how(tmp_path, form):
    build = tiny.build if form == "2.2" else tiny.build_sd
    folder, out = build(tmp_path / "model", form), tmp_path / "run"
    result = run("a red castle", "--backbone", folder, "-n", 2, "--steps", 2, "--guidance", 2,
                 "--negative-prompt", "a tree", "--seed", 4, "--out", out)  # fmt: skip
    assert result.exit_code == 0, result.output
    recipe = read_recipe(out / "images" / "0001.png")
    wanted = {"prompt": "a red castle", "negative_prompt": "a tree", "num_inference_steps": 2,
              "guidance_scale": 2.0, "seed": 4, "checkpoint": str(folder)}  # fmt: skip
    assert wanted.items() <= recipe.items()
    assert ("prior_guidance_scale" in recipe) == (form == "2.2")
    again = offbeat.load_run(out)
    drawn = offbeat.generate(
        "a red castle", negative_prompt="a tree", num_images=2, num_inference_steps=2,
        guidance_scale=2.0, seed=4, backbone=folder,
    )  # fmt: skip
    assert [a.tobytes() for a in again.images] == [b.tobytes() for b in drawn.images]
    others = [
        offbeat.generate("a red castle", num_images=1, seed=4, backbone=folder, **settings)
        for settings in ({}, {"negative_prompt": "a tree"}, {"guidance_scale": 1.0})
    ]
    assert len({other.images[0].tobytes() for other in others}) == 3


@pytest.mark.parametrize("option", [("--prior-steps", 4), ("--prior-guidance", 2)])
def test_settings_of_a_prior_are_refused_where_there_is_none(tmp_path, tiny_sd_folder, option):
    out = tmp_path / "run"
    result = run("a castle", "--backbone", tiny_sd_folder, *option, "--out", out)
    assert result.exit_code == 2
    assert "has no prior, got" in result.stderr
    assert "such as pocket" in result.stderr
    assert not out.exists()


def test_too_long_a_prompt_and_a_folder_of_nothing_are_refused(tmp_path, tiny_sd_folder):
    out = tmp_path / "run"
    long = run("pig " * 100, "--backbone", tiny_sd_folder, "--out", out)
    nothing = run("a pig", "--backbone", tmp_path, "--out", out)
    assert (long.exit_code, nothing.exit_code) == (2, 2)
    assert "at most 75 tokens" in long.stderr
    assert "model_index.json" in nothing.stderr
    assert not out.exists()


def test_a_checkpoint_without_a_prior_is_searched_by_its_pictures(tmp_path, tiny_sd_folder):
    out = tmp_path / "run"
    small = {"num_drawn": 12, "num_probes": 2, "population": 4}
    arguments = [
        "explore", "pig", "--backbone", tiny_sd_folder, "--out", out,
        "--steps", 1, "--axes", 2, "--reach", 2,
        "--judge", "none", "--num-images", 1, "--directions", 1, "--candidates", 1,
    ]  # fmt: skip
    arguments += [part for name, value in small.items() for part in ("--set", f"{name}={value}")]
    result = RUNNER.invoke(cli.app, [str(part) for part in arguments])
    assert result.exit_code == 0, result.output
    assert (out / "concept.safetensors").exists()
    assert (out / "images" / "0000.png").exists()
