"""Runs of the command line on the shelf of a studio."""

import json
import logging
import math
import os
import shutil

import pytest
from asking import SMALL
from fastapi.testclient import TestClient

import offbeat
from offbeat.errors import ConfigError
from offbeat.runs.folder import RunFolder
from offbeat.studio.app import create_app
from offbeat.studio.brought import bring
from offbeat.studio.database import Database
from offbeat.studio.state import Settings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder as the command line leaves it: a run, one in a sweep's folder, and what is none."""
    folder = tmp_path_factory.mktemp("made")
    small = {k: v for k, v in SMALL.items() if k != "lora_rank"}
    offbeat.explore(
        "owl", directions=2, num_images=1, candidates=1, num_steps=2, reach=1.2, judge="none",
        config=small, out=folder / "owl",
    )  # fmt: skip
    offbeat.generate("a picture of a castle", num_images=1, out=folder / "sweep" / "castle")
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "request.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    return folder


def test_runs_are_seen_by_all_drawn_from_and_changed_by_nobody(made, tmp_path):
    settings = Settings(folder=tmp_path / "studio", device="cpu", shelf=(made,))
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        client.get("/api/v1/session")
        shown = {one["title"]: one for one in client.get("/api/v1/runs").json()["runs"]}
        assert set(shown) == {"owl", "castle"}
        owl = client.get(f"/api/v1/runs/{shown['owl']['id']}").json()
        assert (owl["num_images"], owl["num_concepts"], owl["brought"]) == (2, 2, True)
        assert owl["request"]["directions"] == 2
        assert client.get(owl["pictures"][0]["url"]).headers["content-type"] == "image/png"
        assert str(made) not in json.dumps(owl)
        where = f"/api/v1/runs/{owl['id']}"
        assert client.patch(where, json={"title": "mine"}).status_code in (403, 404)
        assert client.delete(where).status_code in (403, 404)
        assert (made / "owl" / "images" / "0000.png").exists()
        wish = {"verb": "render", "sources": [{"run": owl["id"], "index": 1}], "num_images": 1}
        assert client.post("/api/v1/jobs", json=wish).status_code == 202
        wish["sources"] = [{"run": shown["castle"]["id"], "index": 1}]
        assert client.post("/api/v1/jobs", json=wish).status_code == 404


def test_a_second_start_brings_nothing_twice_and_the_folder_may_go(made, tmp_path):
    source = shutil.copytree(made, tmp_path / "made")
    studio = tmp_path / "studio"
    (studio / "runs").mkdir(parents=True)
    database = Database(studio / "studio.sqlite")
    assert (bring(database, studio, source), bring(database, studio, source)) == (2, 0)
    shutil.rmtree(source)
    name = database.rows("SELECT id FROM runs WHERE title = 'owl'")[0]["id"]
    assert (studio / "runs" / name / "images" / "0001.png").exists()
    database.close()


def test_links_lead_nowhere_and_what_cannot_be_read_is_said(made, tmp_path, caplog):
    source = shutil.copytree(made, tmp_path / "made")
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (source / "owl" / "images" / "0007.png").symlink_to(secret)
    (source / "out").symlink_to(tmp_path)
    (source / "sweep" / "castle" / "summary.json").write_text("[")
    studio = tmp_path / "studio"
    (studio / "runs").mkdir(parents=True)
    database = Database(studio / "studio.sqlite")
    with caplog.at_level(logging.WARNING):
        assert bring(database, studio, source) == 1
    assert "castle" in caplog.text
    assert not list(studio.rglob("0007.png"))
    with pytest.raises(ConfigError, match="--shelf"):
        bring(database, studio, tmp_path / "none")
    with caplog.at_level(logging.WARNING):
        assert bring(database, studio, source / "unfinished") == 0
    assert "no finished run" in caplog.text
    database.close()


def test_what_may_not_be_read_is_left_out_and_the_studio_starts(
    made, tmp_path, caplog, monkeypatch
):
    source = shutil.copytree(made, tmp_path / "made")
    (source / "locked").mkdir()

    def refusing(function, word):
        def refuse(path, *rest):
            if word in str(path):
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *rest)

        return refuse

    monkeypatch.setattr(os, "listdir", refusing(os.listdir, "locked"))
    monkeypatch.setattr(os, "link", refusing(os.link, "castle"))
    monkeypatch.setattr(shutil, "copy2", refusing(shutil.copy2, "castle"))
    studio = tmp_path / "studio"
    (studio / "runs").mkdir(parents=True)
    database = Database(studio / "studio.sqlite")
    with caplog.at_level(logging.WARNING):
        assert bring(database, studio, source) == 1
    assert "castle" in caplog.text
    assert "locked" in caplog.text
    assert [path.name for path in (studio / "runs").iterdir() if path.suffix != ".new"] == [
        database.rows("SELECT id FROM runs")[0]["id"]
    ]
    database.close()


ODD = [None, 3, "text", [], [None, 3, "text"], {}, {"answer": "yes"}, [{"answer": "maybe"}],
       [{"images": [1, None], "weights": ["pig"], "share": "all", "verdict": "yes", "axes": "x"}],
       [{"verdict": {"answer": "yes"}, "distance": math.inf, "seen": {}}]]  # fmt: skip


def test_runs_of_any_command_version_and_plug_in_can_be_opened(made, tmp_path):
    rival = {"answer": "yes", "probability": 0.9}  # as explore --method best-of-n writes
    names = ("images", "concepts", "warnings", "judge", "target_distance", "in_words")
    summaries = [dict.fromkeys(names, value) for value in ODD]
    for number, summary in enumerate([{"images": [rival], "judge": "classifier"}, *summaries]):
        folder = RunFolder.create(tmp_path / "runs" / f"run-{number}", {"verb": "explore"})
        picture = (made / "owl" / "images" / "0000.png").read_bytes()
        folder.append_trace(dict.fromkeys(("step", "branch", "probe", "verdict"), summary))
        files = {"images/0000.png": picture, "concept.safetensors": b"none"}
        folder.write({**files, "summary.json": json.dumps(summary).encode()})
        folder.finish()
    settings = Settings(folder=tmp_path / "studio", device="cpu", shelf=(tmp_path / "runs",))
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        client.get("/api/v1/session")
        shown = {run["title"]: run["id"] for run in client.get("/api/v1/runs").json()["runs"]}
        assert len(shown) == len(ODD) + 1
        for name in shown.values():
            for part in ("", "/curve", "/lineage"):
                assert client.get(f"/api/v1/runs/{name}{part}").status_code == 200
        pictures = client.get(f"/api/v1/runs/{shown['run-0']}").json()["pictures"]
        assert pictures[0]["verdict"] == rival | {"judge": "classifier", "note": None}
