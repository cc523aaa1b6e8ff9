"""What the rooms of the page do, through the API, by real runs on pocket."""

import io
import json
import threading
import time
import zipfile

import pytest
from asking import SMALL, client_of
from PIL import Image

WIDE = [[-100, -100], [100, -100], [100, 100], [-100, 100]]


@pytest.fixture(scope="module")
def dreamt(explored):
    own, _ = explored
    return own.done("dream", num=2, law="laplace", seed=3, judge="none", title="moss")


def test_an_exploration_has_pictures_a_map_a_curve_and_kept_steps(explored):
    own, job = explored
    run = own.get(f"/runs/{job['id']}")
    kinds = [(one["kind"], one["index"]) for one in run["pictures"]]
    assert kinds == [
        ("images", 0), ("images", 1), ("ordinary", 0), ("ordinary", 1),
        *[("previews", number) for _ in (0, 2, 4) for number in range(4)],
    ]  # fmt: skip
    previews = [one for one in run["pictures"] if one["kind"] == "previews"]
    assert [(one["trial"], one["step"]) for one in previews[::4]] == [(0, 0), (0, 2), (0, 4)]
    assert len(run["pictures"][0]["axes"]) == 2
    assert run["pictures"][0]["verdict"]["answer"] in ("yes", "no")
    assert [one["step"] for one in run["steps"]] == [2, 4]
    for one in run["pictures"]:
        data = own.client.get(one["url"])
        assert data.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(data.content)).size == (128, 128)
    found = own.get(f"/runs/{job['id']}/map")
    assert len(found["ordinary"]) == found["num_ordinary"] == 60
    assert [(at["step"], at["kept"], len(at["points"])) for at in found["steps"]] == [
        (2, True, 8), (4, True, 8),
    ]  # fmt: skip
    assert found["pictures"][1]["axes"] == run["pictures"][1]["axes"]
    curve = own.get(f"/runs/{job['id']}/curve")
    assert [row["step"] for row in curve["rows"]] == [1, 2, 3, 4]
    assert curve["rows"][3]["verdict"]["answer"] in ("yes", "no")
    assert "/" not in json.dumps(run["settings"]["avoid"])


def test_a_search_goes_on_from_a_lasso_and_away_from_another(explored):
    own, job = explored
    wish = {"region": WIDE, "changes": {"num_steps": 1, "num_images": 1, "reach": 1.5}}
    asked = own.client.post(f"/api/v1/runs/{job['id']}/continue", json=wish)
    assert asked.status_code == 202, asked.text
    assert asked.json()["request"]["start"]["step"] in (2, 4)
    more = own.end_of(asked.json())
    assert more["state"] == "finished", more["error"]
    away = own.done(
        "explore", subject="handbag", num_steps=1, num_images=1, judge="none", config=SMALL,
        avoid=[{"run": job["id"], "region": WIDE}, {"run": job["id"], "step": 2}],
        unlike=[{"run": job["id"], "index": 1}, {"run": job["id"], "kind": "previews", "index": 2}],
        preview_every=0,
    )  # fmt: skip
    trace = own.client.get(f"/api/v1/runs/{away['id']}/files/trace.jsonl").text
    assert len(json.loads(trace.splitlines()[0])["avoid"]) == 3
    settings = own.get(f"/runs/{away['id']}")["settings"]
    assert settings["avoid"][1] == f"runs/{job['id']}:2"  # and no path of this machine
    tree = own.get(f"/runs/{away['id']}/lineage")
    assert {(edge["from"], edge["to"], edge["how"]) for edge in tree["edges"]} == {
        (job["id"], more["id"], "start"),
        (job["id"], away["id"], "avoid"),
        (job["id"], away["id"], "unlike"),
    }
    refused = own.ask("explore", expect=422, subject="handbag", start={"run": job["id"], "step": 3})
    assert "2, 4" in refused["error"]
    far = {"region": [[1e300, 0], [0, 1e300], [1e300, 1e300]]}
    assert own.client.post(f"/api/v1/runs/{job['id']}/continue", json=far).status_code == 422


def test_each_direction_is_steered_by_from_where_it_ended(browser):
    job = browser.done(
        "explore", subject="handbag", num_steps=3, reach=1.2, num_images=1, directions=2,
        preview_every=2, judge="none", config=SMALL,
    )  # fmt: skip
    own = f"runs/{job['id']}"
    run = browser.get(f"/runs/{job['id']}")
    assert [one["concept"] for one in run["pictures"] if one["kind"] == "images"] == [0, 1]
    previews = [one for one in run["pictures"] if one["kind"] == "previews"]
    assert {(one["trial"], one["step"]) for one in previews} == {(0, 0), (0, 2), (1, 2)}
    second = {"run": job["id"], "kind": "previews", "trial": 1, "step": 2, "index": 3}
    quick = {"subject": "handbag", "num_steps": 1, "num_images": 1, "judge": "none"}
    more = browser.done(
        "explore", **quick, config=SMALL, start={"run": job["id"], "trial": 1},
        avoid=[{"run": job["id"], "trial": 1, "step": 2}], unlike=[second],
    )  # fmt: skip
    settings = browser.get(f"/runs/{more['id']}")["settings"]
    assert (settings["start"], settings["avoid"]) == (f"{own}:1.end", [f"{own}:1.2"])
    drawn = browser.client.get(next(one for one in previews if one["trial"] == 1)["url"])
    assert settings["unlike"][0][0].endswith("trials/1/states/0002/preview-0003.png")
    assert drawn.status_code == 200
    refused = browser.ask(
        "explore", expect=422, **quick, start={"run": job["id"], "trial": 7, "step": 2}
    )
    assert "kept" in refused["error"]
    files = browser.client.get(f"/api/v1/{own}/zip")
    assert 'filename="handbag.zip"' in files.headers["content-disposition"]
    names = zipfile.ZipFile(io.BytesIO(files.content)).namelist()
    assert {"handbag/images/0001.png", "handbag/concepts/0001/concept.safetensors"} <= set(names)
    assert not [name for name in names if "checkpoint" in name]


def test_two_finds_are_walked_between_and_one_is_kept_and_exported(explored, dreamt):
    own, _ = explored
    ends = [{"run": dreamt["id"], "index": index} for index in (0, 1)]
    way = own.done("walk", first=ends[0], second=ends[1], num=3)
    assert [one["share"] for one in own.get(f"/runs/{way['id']}")["concepts"]] == [0, 0.5, 1]
    kept = own.done("render", sources=[{"run": way["id"], "index": 1}], num_images=1, title="owl")
    assert own.get("/runs", params={"q": "owl"})["runs"][0]["id"] == kept["id"]
    path = f"/api/v1/runs/{kept['id']}/export"
    answer = own.client.get(path, params={"format": "a1111", "token": "owl"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"] == 'attachment; filename="owl.safetensors"'
    brought = own.client.post(
        "/api/v1/uploads", files={"file": ("../../owl.safetensors", answer.content)}
    ).json()
    assert (brought["kind"], brought["name"]) == ("concept", "owl.safetensors")
    again = own.done("import", upload=brought["id"])
    assert own.get(f"/runs/{again['id']}")["num_concepts"] == 1


def test_a_factored_concept_is_exported_as_a_zip(explored):
    own, job = explored
    answer = own.client.get(f"/api/v1/runs/{job['id']}/export")
    assert answer.headers["content-type"] == "application/zip"
    names = zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    assert len(names) == 2
    assert all(name.endswith(".safetensors") for name in names)


def test_words_and_pictures_are_fused_and_painted(explored):
    own, job = explored
    pair = [{"word": "pig", "share": 0.6}, {"word": "owl", "share": 0.4}]
    fused = own.done("fuse", sources=pair, num_images=1, judge="none")
    (concept,) = own.get(f"/runs/{fused['id']}")["concepts"]
    assert concept["weights"] == pytest.approx({"pig": 0.6, "owl": 0.4})
    art = {"run": job["id"], "index": 0}
    config = {"num_inference_steps": 2}
    painted = own.done("paint", art=art, num_images=1, prompt="a picture of a cat", config=config)
    assert own.get(f"/runs/{painted['id']}")["parents"] == [{"run": job["id"], "how": "picture"}]
    unknown = own.ask("fuse", expect=422, sources=[{"word": "pig"}, {"word": "quux"}])
    assert "quux" in unknown["error"]


def test_a_sketch_follows_and_an_older_one_is_dropped(explored, dreamt):
    own, _ = explored
    mixture = {"of": "mixture", "sources": [{"word": "pig", "share": 0.5}, {"word": "owl"}]}
    walk = {"of": "walk", "share": 0.5, "first": {"of": "dream", "seed": 3, "law": "laplace"},
            "second": {"run": dreamt["id"], "index": 1}}  # fmt: skip
    for request in (mixture, {"of": "dream", "law": "cauchy", "seed": 4}, walk):
        answer = own.client.post("/api/v1/sketch", json=request)
        assert answer.status_code == 200, answer.text
        assert Image.open(io.BytesIO(answer.content)).size == (128, 128)
    sketches = own.client.app.state.studio.sketches
    gate, answers = threading.Event(), []
    sketches._thread.submit(gate.wait)  # the thread is busy: both wait

    def sketch():
        answers.append(own.client.post("/api/v1/sketch", json=mixture))

    ask = [threading.Thread(target=sketch) for _ in range(2)]
    for one in ask:
        one.start()
    while sketches._waiting < 2:
        time.sleep(0.01)
    gate.set()
    for one in ask:
        one.join()
    assert sorted(answer.status_code for answer in answers) == [200, 409]


def test_refused_sketches_cost_no_place(browser):
    missing = {"run": "0" * 16}
    refused = {"of": "walk", "share": 0.5, "first": missing, "second": missing}
    for _ in range(70):  # more than may wait at once
        answer = browser.client.post("/api/v1/sketch", json=refused)
        assert answer.status_code == 404, answer.text
    assert browser.client.app.state.studio.sketches._waiting == 0


def test_a_run_is_named_starred_discarded_and_restored(explored, dreamt):
    own, _ = explored
    path = f"/api/v1/runs/{dreamt['id']}"
    changed = own.client.patch(path, json={"title": "moss owl", "favourite": True, "note": "50%_"})
    assert (changed.json()["title"], changed.json()["favourite"]) == ("moss owl", True)
    assert [one["id"] for one in own.get("/runs", params={"favourite": True})["runs"]] == [
        dreamt["id"]
    ]
    assert own.get("/runs", params={"q": "50%_"})["total"] == 1
    assert own.get("/runs", params={"q": "50__"})["total"] == 0
    before = own.get("/runs")["total"]
    assert own.client.delete(path).json()["deleted"]
    assert own.get("/runs")["total"] == before - 1
    assert own.get("/runs", params={"deleted": True})["runs"][0]["id"] == dreamt["id"]
    own.client.post(f"{path}/restore")
    assert own.get("/runs")["total"] == before


def test_a_picture_has_variations(explored):
    own, job = explored
    image = {"run": job["id"], "index": 1}
    made = own.done(
        "generate", prompt="a picture of a handbag", num_images=1, image=image, image_weight=0.9
    )
    plain = own.done("generate", prompt="a picture of a handbag", num_images=1)
    pictures = [
        own.client.get(own.get(f"/runs/{run['id']}")["pictures"][0]["url"]).content
        for run in (made, plain)
    ]
    assert pictures[0] != pictures[1]
    edges = own.get(f"/runs/{made['id']}/lineage")["edges"]
    assert {"from": job["id"], "to": made["id"], "how": "picture"} in edges
    own.ask("generate", expect=422, prompt="a castle", image_weight=0.5)


def test_the_trash_is_emptied_by_whoever_filled_it(browser, studio_app):
    jobs = [browser.done("generate", prompt="owl", num_images=1) for _ in range(2)]
    gone, kept = (job["id"] for job in jobs)
    assert browser.client.delete(f"/api/v1/runs/{gone}").status_code == 200
    other = client_of(studio_app)
    other.get("/api/v1/session")
    assert other.delete("/api/v1/trash").json() == {"removed": 0}
    assert browser.client.get(f"/api/v1/runs/{gone}").status_code == 200
    assert browser.client.delete("/api/v1/trash").json() == {"removed": 1}
    assert browser.client.get(f"/api/v1/runs/{gone}").status_code == 404
    folder = studio_app.state.studio.folder / "runs"
    assert not (folder / gone).exists()
    assert (folder / kept / "images" / "0000.png").exists()


def test_a_picture_says_how_it_was_made(explored):
    own, job = explored
    picture = own.client.get(f"/api/v1/runs/{job['id']}/files/images/0000.png").content
    said = own.client.post("/api/v1/recall", files={"file": ("a.png", picture)}).json()
    assert said["by"] == "offbeat"
    asked = said["request"]
    assert (asked["subject"], asked["reach"], asked["config"]["lora_rank"]) == ("handbag", 1.2, 2)
    posted = own.ask("explore", **{key: value for key, value in asked.items() if key != "verb"})
    own.client.delete(f"/api/v1/jobs/{posted['id']}")
    plain = io.BytesIO()
    Image.new("RGB", (8, 8)).save(plain, "PNG")
    nothing = own.client.post("/api/v1/recall", files={"file": ("b.png", plain.getvalue())}).json()
    assert (nothing["by"], nothing["request"]) == (None, None)


def test_a_job_is_cancelled_between_steps_and_goes_on(browser):
    job = browser.ask(
        "explore", subject="castle", num_steps=8, num_images=1, judge="none", preview_every=4,
        config={**SMALL, "hold_tolerance": 0.0},
    )  # fmt: skip
    while not browser.get(f"/jobs/{job['id']}")["pictures"]:
        time.sleep(0.02)
    cancelled = browser.client.delete(f"/api/v1/jobs/{job['id']}")
    assert cancelled.status_code == 200
    stopped = browser.end_of(job)
    assert stopped["state"] == "cancelled"
    assert browser.client.delete(f"/api/v1/jobs/{job['id']}").status_code == 409
    assert browser.get("/runs")["total"] == 0
    resumed = browser.client.post(f"/api/v1/jobs/{job['id']}/resume")
    assert resumed.status_code == 202
    ended = browser.end_of(job)
    assert (ended["state"], ended["attempts"]) == ("finished", 2), ended["error"]


def test_a_fault_is_told_without_paths(browser):
    job = browser.end_of(browser.ask("generate", prompt="owl " * 200))
    assert job["state"] == "failed"
    assert "tokens" in job["error"]["error"]
    assert "/" not in job["error"]["error"]


def test_what_there_is_is_listed(browser):
    about = browser.get("/about")
    methods = {one["name"]: one for one in about["methods"]}
    assert methods["distok"]["verbs"] == ["fuse", "sweep", "grid", "dream"]
    assert methods["magicmix"]["takes"] == ["words", "pictures"]
    assert "pig" in methods["distok"]["words"]
    law = methods["distok"]["settings"]["properties"]["law"]
    assert law["enum"] == ["gaussian", "laplace", "cauchy"]
    assert law["description"].startswith("Distribution of dreams")
    # it may be left out, so its schema is one of two: a number in a range, or null
    num_steps, nothing = methods["low-probability"]["settings"]["properties"]["num_steps"]["anyOf"]
    assert (num_steps["minimum"], num_steps["maximum"]) == (1, 1_000_000)
    assert nothing == {"type": "null"}
    pocket = about["backbones"][0]
    assert {"explore", "fuse", "dream", "sketch"} <= set(pocket["capabilities"])
