"""Likes and dislikes: kept for each session, and turned into preferences within a run."""

import pytest
from asking import client_of
from PIL import Image

from offbeat.errors import ConfigError
from offbeat.files.preferences import Preferences
from offbeat.studio.arguments import Translation
from offbeat.studio.database import Database
from offbeat.studio.requests import ExploreJob
from offbeat.studio.taste import keep_taste, taste_file


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "studio.sqlite")
    yield database
    database.close()


def draw(folder, run, count):
    (folder / "runs" / run / "images").mkdir(parents=True)
    for index in range(count):
        picture = Image.new("RGB", (32, 32), (20 * index, 0, 0))
        picture.save(folder / "runs" / run / "images" / f"{index:04d}.png")


def test_marks_prefer_within_a_run_and_the_file_is_that_of_its_digest(tmp_path, database):
    draw(tmp_path, "a", 8)
    draw(tmp_path, "b", 3)
    for picture in (0, 1, 2):
        database.mark("me", "a", picture, 1)
    database.mark("me", "b", 2, -1)
    database.mark("me", "a", 7, -1)
    database.mark("you", "a", 3, 1)  # somebody else's
    digest = keep_taste(database, tmp_path, "me")
    taste = Preferences.load(tmp_path / taste_file(digest))
    pairs = set(zip(taste.winners.tolist(), taste.losers.tolist(), strict=True))
    liked, neither = {0, 1, 2}, {3, 4, 5, 6}
    expected = {(one, other) for one in liked for other in neither | {7}}
    expected |= {(one, 7) for one in neither} | {(8, 10), (9, 10)}
    assert pairs == expected
    assert digest == keep_taste(database, tmp_path, "me")
    database.mark("me", "a", 3, 1)
    assert keep_taste(database, tmp_path, "me") != digest


def test_too_few_marks_are_told_with_their_number(tmp_path, database):
    draw(tmp_path, "a", 4)
    database.mark("me", "a", 0, 1)
    database.mark("me", "a", 1, 1)
    database.mark("me", "a", 1, 0)  # taken back
    with pytest.raises(ConfigError, match=r"at least 20 .* got 3"):
        keep_taste(database, tmp_path, "me")


def test_a_session_marks_pictures_that_it_sees_and_its_marks_are_its_own(explored, studio_app):
    mine, job = explored
    where = f"/api/v1/runs/{job['id']}/mark"
    client = mine.client
    assert client.put(where, json={"index": 1, "mark": 1}).status_code == 200
    marks = {p["index"]: p["mark"] for p in mine.get(f"/runs/{job['id']}")["pictures"]
             if p["kind"] == "images"}  # fmt: skip
    assert marks == {0: 0, 1: 1}
    assert client.put(where, json={"index": 99, "mark": 1}).status_code == 404
    assert client.put(where, json={"index": 0, "mark": 2}).status_code == 422
    client.patch(f"/api/v1/runs/{job['id']}", json={"shared": False})  # whatever ran before
    other = client_of(studio_app)
    other.get("/api/v1/session")
    assert other.put(where, json={"index": 1, "mark": -1}).status_code == 404
    wish = {"verb": "explore", "subject": "handbag", "taste": "marks"}
    told = client.post("/api/v1/jobs", json=wish)
    assert told.status_code == 422
    assert "at least 20" in told.json()["error"]
    missing = client.post("/api/v1/jobs", json={**wish, "taste": "0123456789abcdef"})
    assert missing.status_code == 404


def test_a_job_names_the_marks_of_its_time_and_chooses_among_candidates(studio_app):
    folder = studio_app.state.studio.folder
    digest = "0123456789abcdef0123456789abcdef"
    (folder / "tastes").mkdir(exist_ok=True)
    (folder / taste_file(digest)).touch()
    request = ExploreJob(verb="explore", subject="handbag", taste=digest)
    session = "nobody"
    call, arguments = Translation(studio_app.state.studio.arguments, session).call(request)
    assert (call, arguments["taste"], arguments["candidates"]) == ("explore", taste_file(digest), 3)
