"""``offbeat studio``: what it refuses before it loads anything."""

import pytest
from typer.testing import CliRunner

from offbeat.cli import app
from offbeat.studio.queue import without_paths
from offbeat.studio.server import named


def run(*words, **env):
    return CliRunner().invoke(app, ["studio", "--no-open", *words], env={"COLUMNS": "200", **env})


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "studio.example"])
def test_it_listens_beyond_this_machine_only_with_a_token(host, tmp_path):
    result = run("--host", host, "--folder", str(tmp_path / "s"))
    assert result.exit_code == 2
    assert "--token" in result.output
    assert not (tmp_path / "s").exists()
    assert run("--host", host, "--token", "short").exit_code == 2


def test_without_the_extra_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("offbeat.cli.studio.find_spec", lambda name: None)
    result = run()
    assert result.exit_code == 2
    assert "pip install 'offbeat[studio]'" in result.output


def test_a_checkpoint_s_folder_is_shown_by_its_name(tmp_path):
    folder = tmp_path / "My Model (v2)"
    folder.mkdir()
    assert named(str(folder)) == ("my-model--v2", str(folder))
    assert named("owner/Some-Model") == ("some-model", "owner/Some-Model")
    assert named("pocket") == ("pocket", None)


def test_messages_lose_their_paths():
    said = "/home/ann/s/runs/ab: no such run; C:\\Users\\ann\\x.png, a 3/4 view, and/or {concept}"
    assert without_paths(said) == "ab: no such run; x.png, a 3/4 view, and/or {concept}"
