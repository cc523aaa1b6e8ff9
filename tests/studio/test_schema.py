"""The schema is held against the application: whatever is asked, nothing is a 500."""

import pytest

schemathesis = pytest.importorskip("schemathesis")
hypothesis = pytest.importorskip("hypothesis")

EXAMPLES = 30
"""Of each route."""


@pytest.fixture
def quiet(explored, monkeypatch):
    """A session with a finished run, in a studio that starts no job meanwhile."""
    own, job = explored
    monkeypatch.setattr(own.client.app.state.studio.queue, "pump", lambda: None)
    yield own, job
    for one in own.get("/jobs?state=queued")["jobs"]:
        own.client.delete(f"/api/v1/jobs/{one['id']}")
    own.client.post(f"/api/v1/runs/{job['id']}/restore")


def operations(schema):
    return [found.ok() for found in schema.get_all_operations()]


def test_every_route_is_in_the_schema_and_none_fails(quiet):
    own, job = quiet
    client = own.client
    schema = schemathesis.openapi.from_dict(client.get("/api/v1/openapi.json").json())
    routes = operations(schema)
    assert len(routes) >= 25
    codes = set()

    def hold(operation):
        @hypothesis.given(case=operation.as_strategy(), real=hypothesis.strategies.booleans())
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def holds(case, real):
            if real and "name" in (case.path_parameters or {}):
                case.path_parameters["name"] = job["id"]
            arguments = case.as_transport_kwargs(base_url="http://localhost")
            for name in ("timeout", "cookies"):
                arguments.pop(name, None)
            answer = client.request(**arguments)
            codes.add(answer.status_code)
            assert answer.status_code < 500, (arguments, answer.text)
            if answer.status_code >= 400:
                assert set(answer.json()) == {"error", "kind", "fields"}

        holds()

    for operation in routes:
        if operation.path != "/api/v1/events":  # it does not end
            hold(operation)
    assert {200, 202, 404, 422} <= codes
