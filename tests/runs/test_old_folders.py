"""Run folders that an earlier Offbeat wrote stay readable."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import offbeat
from offbeat import cli

OLD = Path(__file__).parent.parent / "fixtures" / "runs"


@pytest.mark.parametrize(("name", "pictures"), [("explore", 1), ("fuse", 1), ("raw-prompt", 1)])
def test_an_old_run_is_read_and_shown(name, pictures):
    run = offbeat.load_run(OLD / name)
    assert len(run.images) == pictures
    assert run.summary["in_words"]
    shown = CliRunner().invoke(cli.app, ["show", str(OLD / name / "images" / "0000.png")])
    assert shown.exit_code == 0, shown.output
    assert "Model: pocket" in shown.stdout


@pytest.mark.parametrize("name", ["explore", "fuse"])
def test_an_old_concept_is_drawn_and_exported(name, pocket, tmp_path):
    drawn = offbeat.render(OLD / name, num_images=1, seed=3 if name == "explore" else 0,
                           backbone=pocket)  # fmt: skip
    old = offbeat.load_run(OLD / name)
    assert drawn.images[0].tobytes() == old.images[0].tobytes()
    (file,) = offbeat.export_concept(OLD / name, out=tmp_path)
    assert file.stat().st_size > 1000


def test_an_old_picture_is_made_again(pocket):
    made = offbeat.again(OLD / "raw-prompt" / "images" / "0000.png", backbone=pocket)
    assert made.same_pixels


def test_an_old_run_is_finished_for_its_own_request(pocket, tmp_path):
    shutil.copytree(OLD / "raw-prompt", tmp_path / "run")
    run = offbeat.explore("pet", method="raw-prompt", num_images=1, backbone=pocket,
                          out=tmp_path / "run", resume=True)  # fmt: skip
    assert run.folder == tmp_path / "run"
