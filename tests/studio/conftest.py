"""One studio for all of these tests: the real application, on pocket, with its worker."""

from importlib.util import find_spec

import pytest

if find_spec("fastapi") is None:  # pip install 'offbeat[studio]'
    collect_ignore_glob = ["test_*.py"]

from asking import ENTERED, SMALL, Waiting, client_of


@pytest.fixture(scope="session")
def studio_app(tmp_path_factory):
    from offbeat.studio.app import create_app
    from offbeat.studio.state import Settings

    patch = pytest.MonkeyPatch()
    patch.setenv("OFFBEAT_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path_factory.mktemp("studio")
    app = create_app(Settings(folder=folder, device="cpu"))
    with client_of(app) as client:
        ENTERED.append(client)
        yield app
        ENTERED.clear()
    patch.undo()


@pytest.fixture
def browser(studio_app):
    """A session that nobody else has, with its cookie, as a browser has it."""
    client = client_of(studio_app)
    client.get("/api/v1/session")
    return Waiting(client)


@pytest.fixture(scope="session")
def explored(studio_app):
    """A session with one finished exploration: the session, and the job."""
    own = Waiting(client_of(studio_app))
    job = own.done(
        "explore", subject="handbag", num_steps=4, reach=1.2, num_images=2, preview_every=2,
        judge="classifier", config=SMALL,
    )  # fmt: skip
    return own, job
