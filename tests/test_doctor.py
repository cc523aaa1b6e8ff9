"""`offbeat doctor`: what is wrong is found, said, and told by the exit code."""

import sys
from importlib import metadata

from typer.testing import CliRunner

from offbeat import _doctor, cli


def level_of(findings, what):
    return {one.what: one.level for one in findings}[what]


def test_this_installation_is_fine(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path / "cache"))
    done = CliRunner().invoke(cli.app, ["doctor"])
    assert done.exit_code == 0, done.stdout
    assert "pocket-sd  " in done.stdout
    assert "Nothing is wrong." in done.stdout


def test_what_is_missing_or_too_old_is_named(monkeypatch):
    def other(name):
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return "0.1" if name == "transformers" else metadata.version(name)

    monkeypatch.setattr(_doctor, "version", other)
    found = list(_doctor._packages())
    assert level_of(found, "peft") == level_of(found, "transformers") == "wrong"
    assert level_of(found, "torch") == "fine"
    assert all("pip install" in one.advice for one in found if one.level == "wrong")


def test_a_torchvision_that_cannot_be_imported_is_found(tmp_path, monkeypatch):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('nms does not exist')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(_doctor, "version", lambda name: "0.28.0")
    (found,) = _doctor._torchvision()
    assert found.level == "wrong"
    assert "nms does not exist" in found.found
    assert sys.modules.get("torchvision") is None


def test_a_cache_that_cannot_be_written_is_found(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path / "file"))
    assert _doctor._cache().level == "wrong"


def test_a_checkpoint_that_does_not_load_is_a_finding():
    assert _doctor._draws("nowhere").level == "wrong"
