"""Sessions of a studio under test: ask, wait, read."""

import time

SMALL = {
    "num_baseline": 60, "num_held_out": 20, "num_components": 4, "num_probes": 8, "probe_every": 2,
    "judge_every": 4, "num_judged": 1, "lora_rank": 2,
}  # fmt: skip
LIMIT = 600
"""Seconds after which a test gives up: far more than a loaded machine takes."""
ORIGIN = "http://localhost"
ENTERED = []
"""The client that started the application."""


def client_of(app, **kwargs):
    """Return a browser session of its own, on the server's one event loop."""
    from fastapi.testclient import TestClient

    client = TestClient(app, base_url=ORIGIN, **kwargs)
    if ENTERED:
        client.portal = ENTERED[0].portal
    return client


class Waiting:
    """A client that can wait for jobs."""

    def __init__(self, client):
        self.client = client

    def ask(self, verb, expect=202, **request):
        answer = self.client.post("/api/v1/jobs", json={"verb": verb, **request})
        assert answer.status_code == expect, answer.text
        return answer.json()

    def end_of(self, job, seconds=LIMIT):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = self.client.get(f"/api/v1/jobs/{job['id']}").json()
            if found["state"] not in ("queued", "running"):
                return found
            time.sleep(0.05)
        raise AssertionError(f"{found['state']} after {seconds} s: {found}")

    def done(self, verb, **request):
        job = self.end_of(self.ask(verb, **request))
        assert job["state"] == "finished", job["error"]
        return job

    def get(self, path, **kwargs):
        answer = self.client.get(f"/api/v1{path}", **kwargs)
        assert answer.status_code == 200, answer.text
        return answer.json()
