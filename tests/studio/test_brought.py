"""Runs of the command line on the shelf of a studio."""

import json
import logging
import shutil

import pytest
from asking import SMALL
from fastapi.testclient import TestClient

import offbeat
from offbeat.errors import ConfigError
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
    for empty in (tmp_path / "none", source / "unfinished"):
        with pytest.raises(ConfigError, match="--shelf"):
            bring(database, studio, empty)
    database.close()
