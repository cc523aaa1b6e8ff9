"""`offbeat doctor`: what is wrong is found, said, and told by the exit code."""

import sys
import threading
from email.message import Message
from importlib import metadata

from typer.testing import CliRunner

from offbeat import cli
from offbeat.checkpoints import placement
from offbeat.verbs import doctor


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

    monkeypatch.setattr(doctor, "version", other)
    found = list(doctor._packages())
    assert level_of(found, "peft") == level_of(found, "transformers") == "wrong"
    assert level_of(found, "torch") == "fine"
    assert all("pip install" in one.advice for one in found if one.level == "wrong")


def test_a_torchvision_that_cannot_be_imported_is_found(tmp_path, monkeypatch):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('nms does not exist')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "version", lambda name: "0.28.0")
    (found,) = doctor._torchvision()
    assert found.level == "wrong"
    assert "nms does not exist" in found.found
    assert sys.modules.get("torchvision") is None


def test_each_extra_is_told_with_what_it_would_add(monkeypatch):
    def other(name):
        if name == "fastapi":
            raise metadata.PackageNotFoundError(name)
        return metadata.version(name)

    asked = [
        "fastapi>=0.1; extra == 'studio'",
        "pytest; extra == 'dev'",
        "offbeat[studio]; extra == 'dev'",
    ]
    told = Message()
    told["Provides-Extra"], told["Provides-Extra"] = "studio", "dev"
    monkeypatch.setattr(doctor, "requires", lambda name: asked)
    monkeypatch.setattr(doctor, "metadata", lambda name: told)
    monkeypatch.setattr(doctor, "version", other)
    dev, studio = doctor._extras()
    assert (dev.what, dev.level) == ("[dev]", "fine")
    assert (studio.what, studio.level) == ("[studio]", "note")
    assert studio.found == "fastapi not installed"
    assert "the studio" in studio.advice
    assert "pip install 'offbeat[studio]'" in studio.advice


def test_memory_of_a_container_counts(monkeypatch):
    monkeypatch.setattr(doctor, "free_memory", lambda device: 5 * 10**8)
    found = doctor._memory()
    assert found.level == "note"
    assert found.found.startswith("0.5 of ")


def test_devices_say_what_auto_is(monkeypatch):
    found = {one.what: one.found for one in doctor._accelerators()}
    assert "threads" in doctor._cpu().found
    assert f"--device auto is {placement.first_device()}" in found["auto"]
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor._compiler().level in ("note", "fine")


def test_what_takes_long_is_waited_for_beside_the_drawing(monkeypatch):
    drawing = threading.Event()

    def slow():
        assert drawing.wait(60)
        yield doctor.Finding("slow", "found")

    def draws(name):
        drawing.set()
        return doctor.Finding(name, "draws")

    monkeypatch.setattr(doctor, "_torchvision", slow)
    monkeypatch.setattr(doctor, "_accelerators", slow)
    monkeypatch.setattr(doctor, "_draws", draws)
    assert [one.what for one in doctor.doctor()].count("slow") == 2


def test_a_cache_that_cannot_be_written_is_found(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path / "file"))
    assert doctor._cache().level == "wrong"


def test_a_checkpoint_that_does_not_load_is_a_finding():
    assert doctor._draws("nowhere").level == "wrong"


def test_every_extra_is_described():
    declared = set(metadata.metadata("offbeat").get_all("Provides-Extra"))
    assert declared <= set(doctor.EXTRAS)
