"""``offbeat study``, from the design to the report."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

if find_spec("sqlalchemy") is None:
    pytest.skip("pip install 'offbeat[study]'", allow_module_level=True)
sys.path.append(str(Path(__file__).parent.parent / "study"))
from studies import draw, raw_design

from offbeat.cli import app
from offbeat.files.preferences import Preferences


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study made by the command, and a function that runs another of its commands."""
    monkeypatch.chdir(tmp_path)
    draw(tmp_path)
    design = tmp_path / "design.yaml"
    design.write_text(yaml.safe_dump(raw_design()))

    def run(command, *arguments, expect=0):
        done = CliRunner().invoke(app, ["study", command, *arguments])
        assert done.exit_code == expect, done.output
        return done.output

    assert "16 pictures, 2 conditions" in run("new", str(design))
    return run


def test_from_the_design_to_the_report_and_a_taste(study):
    assert "30 raters" in study("power", "study", "--raters", "30", "--simulations", "20")
    links = study("invite", "study", "-n", "3").split()
    assert len(set(links)) == 3
    assert "no answers yet" in study("analyse", "study", expect=1)
    study("simulate", "study", "--raters", "30", "--strength", "explored=2")
    told = study("analyse", "study")
    assert "Simulated raters (no people)" in told
    assert "first higher" in told
    numbers = json.loads(Path("study/analysis.json").read_text())
    assert numbers["analyses"][0]["kind"] == "simulation"
    study("taste", "study", "--kind", "simulation", "--out", "taste.safetensors")
    assert len(Preferences.load("taste.safetensors").winners) > 100
    for name in ("answers.csv", "answers.json", "answers.parquet"):
        study("export", "study", name)
    rows = json.loads(Path("answers.json").read_text())
    assert len(rows) == len(Path("answers.csv").read_text().splitlines()) - 1
    study("forget", "study", "0")
    study("export", "study", "answers.json")
    assert {row["rater"] for row in json.loads(Path("answers.json").read_text())} == {*range(1, 30)}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["new", "absent.yaml"], "exploration-pairs"),
        (["new", "design.yaml"], "a study is there"),
        (["analyse", "nowhere"], "study.json is missing"),
        (["simulate", "study", "--strength", "best=1"], "explored"),
        (["simulate", "study", "--strength", "explored=much"], "-20 to 20"),
        (["forget", "study", "7"], "no such rater"),
        (["taste", "study"], "none was"),
        (["taste", "study", "--kind", "robot"], "robot"),
        (["export", "study", "answers.xlsx"], ".parquet"),
        (["export", "study", "a.csv", "--database", "mysteryql://x/y"], "--database"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(study, arguments, told):
    output = study(*arguments, expect=2)
    assert told in output.replace("\n", " ")
    assert "Traceback" not in output
