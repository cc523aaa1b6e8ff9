"""The command line: quick help, one line for an error, and a run from end to end."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from offbeat import cli, formats

RUNNER = CliRunner()


def test_help_loads_no_torch():
    code = (
        "import sys; from offbeat import cli\n"
        "try: cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "explore" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explore", "handbag", "--novelty", "2"], "novelty: expected a number in (0, 1), got 2.0"),
        (["explore", "handbag", "--baseline", "40"], "more samples than the 50 PCA axes"),
        (["explore", " "], "expected a word"),
        (["explore", "handbag", "--backbone", "nowhere"], "nowhere"),
        (["render", "nowhere"], "no such run folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = RUNNER.invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_list_names_what_there_is():
    assert "pocket" in RUNNER.invoke(cli.app, ["list", "backbones"]).output.split()


def test_generate_draws_a_prompt_and_its_recipe_is_inside(tmp_path):
    out = tmp_path / "g"
    arguments = ["generate", "a red castle", "--negative-prompt", "blue", "-n", "1",
                 "--guidance", "2", "--steps", "4", "--out", str(out)]  # fmt: skip
    result = RUNNER.invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    recipe = formats.read_recipe(out / "images" / "0000.png")
    assert recipe["prompt"] == "a red castle"
    assert recipe["negative_prompt"] == "blue"
    assert (recipe["num_inference_steps"], recipe["guidance_scale"]) == (4, 2.0)
    long = RUNNER.invoke(cli.app, ["generate", "pig " * 100, "--out", str(tmp_path / "long")])
    assert long.exit_code == 2
    assert "at most" in long.stderr


def test_explore_and_render_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "run"
    arguments = ["explore", "handbag", "--steps", "5", "-n", "1", "--baseline", "80",
                 "--components", "4", "--judge", "clip", "--out", str(out)]  # fmt: skip
    result = RUNNER.invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert str(out / "contact.png") in result.stdout
    again = RUNNER.invoke(cli.app, arguments)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    drawn = RUNNER.invoke(cli.app, ["render", str(out), "-n", "1", "--out", str(tmp_path / "r")])
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "r" / "contact.png").exists()
