"""The scripts of docs/studio.md, run against a real server; and who a program is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from asking import client_of
from browsing import a_studio
from fastapi.testclient import TestClient
from PIL import Image

from offbeat.studio.app import create_app
from offbeat.studio.state import Settings

TEXT = (Path(__file__).parents[2] / "docs" / "studio.md").read_text(encoding="utf-8")


def block(language):
    """Return the one block of a language in the page."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    return found


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with a_studio(tmp_path_factory.mktemp("studio")) as found:
        yield found


def here(script, address):
    assert script.count("http://127.0.0.1:8188") == 1
    return script.replace("http://127.0.0.1:8188", address)


def test_the_shell_script_draws_a_castle(address, tmp_path):
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("NO CURL: curl or bash is missing")
    script = here(block("bash"), address)
    subprocess.run(["bash", "-ec", script], cwd=tmp_path, check=True, timeout=600)
    with Image.open(tmp_path / "castle.png") as picture:
        assert picture.size == (128, 128)


def test_the_python_script_explores(address, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script = here(block("python"), address)
    # smaller, for a test
    script = script.replace('"novelty": 2,', '"reach": 1.2, "num_steps": 2, "judge": "none",')
    exec(compile(script, "docs/studio.md", "exec"), {})
    assert "ordinary" in capsys.readouterr().out
    assert len(list(tmp_path.glob("teapot-*.png"))) == 8


def test_a_program_that_sends_the_token_is_somebody(tmp_path):
    settings = Settings(folder=tmp_path / "s", host="0.0.0.0", device="cpu", token="correct horse")
    app = create_app(settings)
    with TestClient(app, base_url="http://localhost") as first:
        second, other = client_of(app), client_of(app)
        right = {"authorization": "Bearer correct horse"}
        named = {**right, "offbeat-session": "mine"}
        ask = {"verb": "generate", "prompt": "a picture of an owl", "num_images": 1}
        for _ in range(3):  # as often as it likes, without a cookie
            first.cookies.clear()
            posted = first.post("/api/v1/jobs", json=ask, headers=right)
            assert posted.status_code == 202
            assert "set-cookie" not in posted.headers
        job = f"/api/v1/jobs/{posted.json()['id']}"
        assert second.get(job, headers=right).status_code == 200
        assert other.get(job, headers=named).status_code == 404
        assert other.get(job, headers={"offbeat-session": "mine"}).status_code == 401
        schema = app.openapi()
        assert set(schema["components"]["securitySchemes"]) == {"session", "token"}
        operations = [one for path in schema["paths"].values() for one in path.values()]
        assert all(re.fullmatch("[a-z_]+", one["operationId"]) for one in operations)
        for one in operations:  # no answer is just "an object"
            for status, answer in one["responses"].items():
                content = answer.get("content", {}).get("application/json")
                assert content is None or "$ref" in content["schema"], (one["operationId"], status)
