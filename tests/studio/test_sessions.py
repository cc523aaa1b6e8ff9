"""Twenty people at once: none sees another's, nothing is lost, unless it is shared."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

from asking import Waiting, client_of
from PIL import Image


def test_twenty_sessions_see_their_own_and_lose_nothing(studio_app):
    people = 20
    start = threading.Barrier(people)

    def person(number):
        own = Waiting(client_of(studio_app))
        start.wait(60)
        settings = {"num_images": 1, "num_inference_steps": 1, "prior_num_inference_steps": 2}
        jobs = [own.ask("generate", prompt=f"a picture of a owl {number}", seed=seed, **settings)
                for seed in range(2)]  # fmt: skip
        data = io.BytesIO()
        Image.new("RGB", (16, 16), (number, 0, 0)).save(data, "PNG")
        brought = own.client.post(
            "/api/v1/uploads", files={"file": (f"{number}.png", data.getvalue())}
        ).json()
        return own, jobs, brought

    with ThreadPoolExecutor(people) as pool:
        everyone = list(pool.map(person, range(people)))
        ended = list(pool.map(lambda one: [one[0].end_of(job, 300) for job in one[1]], everyone))
    assert {job["state"] for jobs in ended for job in jobs} == {"finished"}
    started = sorted((job["started"], number) for number, jobs in enumerate(ended) for job in jobs)
    assert len({number for _, number in started[:people]}) == people  # everyone has a turn first
    for number, (own, jobs, brought) in enumerate(everyone):
        seen = own.get("/runs", params={"shared": False})["runs"]
        assert {run["id"] for run in seen} == {job["id"] for job in jobs}
        assert {run["subject"] for run in seen} == {f"a picture of a owl {number}"}
        picture = own.client.get(brought["url"]).content
        assert Image.open(io.BytesIO(picture)).getpixel((0, 0)) == (number, 0, 0)

    (ann, (job, _), brought), (bob, (his, _), _) = everyone[:2]
    for path in (
        f"/runs/{job['id']}", f"/runs/{job['id']}/files/images/0000.png", f"/jobs/{job['id']}",
        f"/runs/{job['id']}/export", f"/runs/{job['id']}/lineage", f"/uploads/{brought['id']}",
        f"/uploads/{brought['id']}/picture", f"/runs/{job['id']}/curve",
    ):  # fmt: skip
        assert bob.client.get(f"/api/v1{path}").status_code == 404, path
    taken = {"run": job["id"]}, {"upload": brought["id"]}
    for art in taken:
        assert bob.ask("paint", expect=404, art=art)["kind"] == "not_found"
    assert bob.ask("render", expect=404, sources=[{"run": job["id"]}])
    for method, path in (("patch", ""), ("delete", ""), ("post", "/restore")):
        kwargs = {"json": {"title": "mine"}} if method == "patch" else {}
        answer = getattr(bob.client, method)(f"/api/v1/runs/{job['id']}{path}", **kwargs)
        assert answer.status_code == 404

    ann.client.patch(f"/api/v1/runs/{job['id']}", json={"shared": True})
    shared = bob.get("/runs", params={"shared": True})["runs"]
    (found,) = [run for run in shared if run["id"] == job["id"]]
    assert not found["own"]
    assert bob.client.get(found["cover"]).headers["content-type"] == "image/png"
    assert bob.client.delete(f"/api/v1/runs/{job['id']}").status_code == 404
    ann.client.delete(f"/api/v1/runs/{job['id']}")
    left = bob.get("/runs", params={"shared": True})["runs"]
    assert job["id"] not in [run["id"] for run in left]
    assert bob.get(f"/runs/{his['id']}")["own"]
