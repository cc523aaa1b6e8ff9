"""The page of a blind study: over HTTP, and in a real browser by keyboard."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from browsing import CHROMIUM, a_browser

if find_spec("sqlalchemy") is None:
    pytest.skip("pip install 'offbeat[study]'", allow_module_level=True)
sys.path.append(str(Path(__file__).parent.parent / "study"))
from studies import answer_all, make

from offbeat.study.storage import Storage

TELLTALE = re.compile(rb"explored|ordinary|made this", re.IGNORECASE)


@pytest.fixture
def served(tmp_path):
    """A study with its storage and a client that no cookie joins to another."""
    from fastapi.testclient import TestClient

    from offbeat.studio.study import create_app

    def serve(**design):
        study = make(tmp_path, **design)
        storage = Storage(study)
        app = create_app(study, storage, host="127.0.0.1", names=())
        return study, storage, TestClient(app, base_url="http://127.0.0.1")

    return serve


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def post(client, token, position, value="left", key=None):
    body = {"key": key or f"decision-{position:04d}", "position": position, "value": value,
            "seconds": 1.0}  # fmt: skip
    return client.post("/api/study/answers", json=body, headers=bearer(token))


def test_nothing_that_is_sent_tells_which_condition_is_shown(served):
    _, storage, client = served(checks=1, practice=1)
    (token,) = storage.invite(1)
    answers = [client.get("/"), client.get(f"/s/{token}")]
    state = client.get("/api/study/state", headers=bearer(token))
    while (shown := state.json()["trial"]) is not None:
        answers.append(state)
        answers += [client.get(f"/pictures/{name}.png") for name in state.json()["ahead"]]
        state = post(client, token, state.json()["position"], shown["expected"] or "left")
        assert state.status_code == 200, state.text
    answers.append(state)
    for answer in answers:
        assert answer.status_code == 200
        assert not TELLTALE.search(answer.content)
        assert not TELLTALE.search(str(answer.headers).encode())
        assert "set-cookie" not in answer.headers
    assert storage.rater(token).is_finished


def test_a_doubled_post_counts_once_and_undo_takes_one_back(served):
    _, storage, client = served()
    (token,) = storage.invite(1)
    client.get("/api/study/state", headers=bearer(token))
    for _ in range(3):
        assert post(client, token, 0, key="the same one").json()["position"] == 1
    assert post(client, token, 0).status_code == 409
    undo = {"key": "take it back"}
    answer = client.post("/api/study/undo", json=undo, headers=bearer(token))
    assert answer.json()["position"] == 0
    assert client.post("/api/study/undo", json={"key": "once more"}, headers=bearer(token)
                       ).status_code == 409  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        {}, {"key": "decision", "position": 0}, [],
        {"key": "decision", "position": -1, "value": "left", "seconds": 1},
        {"key": "decision", "position": 0, "value": "left", "seconds": -1},
        {"key": "decision", "position": 0, "value": {"a": 1}, "seconds": 1},
        {"key": "decision", "position": 0, "value": "left", "seconds": 1, "rater": 1},
    ],
)  # fmt: skip
def test_a_body_that_is_none_is_refused(served, body):
    _, storage, client = served()
    token = storage.join()
    answer = client.post("/api/study/answers", json=body, headers=bearer(token))
    assert answer.status_code == 422
    assert storage.rater(token).position == 0


def test_links_are_not_guessed_and_results_are_not_served(served):
    _, storage, client = served()
    token = storage.join()
    answer_all(storage, token)
    for path in ("/study.json", "/answers.sqlite", "/report.html", "/analysis.json",
                 "/pictures/../study.json", "/pictures/%2e%2e%2fstudy.png",
                 "/api/study/raters", "/api/v1/openapi.json"):  # fmt: skip
        assert client.get(path).status_code == 404, path
    for guess in range(10):
        answer = client.get("/api/study/state", headers=bearer(f"guess-number-{guess}"))
        assert answer.status_code == 404
    answer = client.get("/api/study/state", headers=bearer("guess-number-11"))
    assert answer.status_code == 429


def test_only_an_open_study_lets_anyone_in_and_only_so_many(served):
    _, storage, client = served()
    assert client.post("/join", follow_redirects=False).status_code == 403
    storage.close()


def test_an_open_study_has_a_cap(served):
    _, _, client = served(open=True, raters=2)
    links = [client.post("/join", follow_redirects=False) for _ in range(3)]
    assert [answer.status_code for answer in links] == [303, 303, 409]
    assert links[0].headers["location"] != links[1].headers["location"]


def test_the_language_is_the_browser_s(served):
    _, storage, client = served()
    (token,) = storage.invite(1)
    headers = {**bearer(token), "accept-language": "de-AT,de;q=0.9,en;q=0.5"}
    state = client.get("/api/study/state", headers=headers).json()
    assert state["language"] == "de"
    assert state["trial"]["question"].startswith("Welches Bild")


MISSING = [name for name in ("playwright", "axe_playwright_python") if find_spec(name) is None]
MISSING += [] if CHROMIUM else ["Chromium"]


@pytest.fixture
def link(tmp_path):
    """A served study of each kind: a function that gives a link to take part."""
    processes = []

    def serve(kind):
        study = make(tmp_path, kind, trials=4, repeats=1, checks=1, consent={"en": "I may stop."})
        storage = Storage(study)
        (token,) = storage.invite(1)
        program = [sys.executable, "-u", "-m", "offbeat", "study", "serve", str(study.folder)]
        process = subprocess.Popen([*program, "--port", "0"], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        address = re.search(r"http://[\d.:]+", process.stdout.readline())[0]
        return f"{address}/s/{token}", storage, token

    yield serve
    for process in processes:
        process.terminate()
        process.wait(60)
        process.stdout.close()


KEYS = {"pairs": "ArrowLeft", "scale": "3", "yes-no": "y", "ranking": "1"}


@pytest.mark.skipif(bool(MISSING), reason=f"NO BROWSER: {', '.join(MISSING)} missing")
@pytest.mark.parametrize("kind", sorted(KEYS))
def test_a_person_takes_part_by_keyboard(link, kind):
    from axe_playwright_python.sync_playwright import Axe

    address, storage, token = link(kind)
    wrong = []
    with a_browser() as browser:
        page = browser.new_context(viewport={"width": 400, "height": 800}).new_page()
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        page.get_by_role("button", name="I agree, begin").wait_for()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector('main[data-ready="0"]')
        assert Axe().run(page).violations_count == 0
        page.keyboard.press(KEYS[kind])
        page.wait_for_selector('main[data-ready="1"]')
        page.keyboard.press("Backspace")  # back to the first, not to the welcome
        page.wait_for_selector('main[data-ready="0"]')
        for at in range(len(storage.rater(token).trials)):
            page.wait_for_selector(f'main[data-ready="{at}"]')
            told = page.locator("h1").inner_text()
            key = {"RIGHT": "ArrowRight", "NO": "n"}.get((re.findall("RIGHT|NO", told) or [""])[0])
            number = re.search(r"answer (\d)", told)
            page.keyboard.press(key or (number and number[1]) or KEYS[kind])
        page.get_by_role("heading", name="Thank you").wait_for()
        page.goto(address)  # the link of one who has ended
        page.get_by_role("heading", name="Thank you").wait_for()
    rater = storage.rater(token)
    assert rater.is_finished
    checks = [rater.trials[g.position].expected == g.value for g in rater.given
              if rater.trials[g.position].purpose == "check"]  # fmt: skip
    assert checks == [True]
    assert not wrong
