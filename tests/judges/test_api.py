"""The judge behind an address, against a server that does everything wrong."""

import base64
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from PIL import Image

from offbeat.core.rng import stream
from offbeat.errors import ConfigError, JudgeError
from offbeat.judges.api import ApiJudge, data_url
from offbeat.judges.http import Budget, Client, checked_url
from offbeat.protocols import ChecksSubject, NamesThings

KEY = "sk-secret-0123456789"
IMAGES = torch.rand(1, 3, 8, 12, generator=stream(0, "pixels"))
QUICK = {"timeout": 5.0, "backoff": 0.005}


def said(text, tokens=None):
    """An answer as servers give it, with the alternatives of its first token."""
    choice = {"message": {"role": "assistant", "content": text}}
    if tokens:
        top = [{"token": token, "logprob": value} for token, value in tokens.items()]
        first = {"token": next(iter(tokens)), "logprob": 0.0, "top_logprobs": top}
        choice["logprobs"] = {"content": [first]}
    return json.dumps({"choices": [choice]}).encode()


def answer(body=b"", status=200, **headers):
    def reply(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def slow(handler):
    time.sleep(0.6)
    answer(said("yes"))(handler)


def drip(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.02)


def hang_up(handler):
    handler.close_connection = True


YES = answer(said("Yes."))


class Server:
    """Answers with each of ``replies`` in turn, then with the last; keeps what it was sent."""

    def __init__(self):
        self.replies, self.asked = [YES], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked.append((self.path, dict(self.headers), json.loads(body)))
                reply = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                try:
                    reply(self)
                except OSError:  # the client has had enough
                    self.close_connection = True

            def do_GET(self):
                outer.asked.append((self.path, dict(self.headers), None))
                answer(said("yes"))(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs=POLL, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def judge(self, **budget):
        return ApiJudge("tiny-vlm", self.url, budget=Budget(**{**QUICK, **budget}))


POLL = {"poll_interval": 0.01}


@pytest.fixture
def server(monkeypatch):
    for name in ("OFFBEAT_API_URL", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OFFBEAT_API_KEY", KEY)
    found = Server()
    yield found
    found.close()


def test_a_question_holds_the_picture_and_the_key_is_in_its_header_alone(server):
    judge = server.judge()
    assert isinstance(judge, ChecksSubject)
    assert isinstance(judge, NamesThings)
    (verdict,) = judge.still_a(IMAGES, "alien")
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["temperature"], body["logprobs"]) == ("tiny-vlm", 0, True)
    text, image = body["messages"][0]["content"]
    assert text["text"] == "Is this still an alien? Yes or no."
    sent = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,"))
    pixels = torch.tensor(list(Image.open(io.BytesIO(sent)).convert("RGB").tobytes()))
    expected = (IMAGES[0] * 255).round().permute(1, 2, 0).flatten()
    assert torch.equal(pixels.float(), expected)
    assert (verdict.answer, verdict.probability) == ("yes", 1.0)
    assert "no probabilities" in verdict.note
    assert verdict.judge == f"api:tiny-vlm@{server.url[7:-3]}"
    assert KEY not in repr(judge) + repr(judge._client) + json.dumps(body)


def test_probabilities_are_read_where_the_server_gives_them(server):
    logs = {" Yes": -1.0, "No": -2.0, " no": -2.0, "maybe": -0.1}
    server.replies = [answer(said(" Yes", logs))]
    parts = torch.tensor([-1.0, -2.0, -2.0]).exp()
    value = server.judge().probability_of_yes(IMAGES, "Is it?")
    torch.testing.assert_close(value, parts[:1] / parts.sum())
    server.replies = [answer(said("No.", {"No": -0.1, "Yes": -3.0}))]
    (verdict,) = server.judge().still_a(IMAGES, "pet")
    assert verdict.answer == "no"
    assert 0 < verdict.probability < 0.1
    server.replies = [answer(said("**A Siamese cat.**"))]
    assert server.judge().name_it(IMAGES[0], "pet") == "siamese cat"


@pytest.mark.parametrize(
    "trouble",
    [
        slow,
        drip,
        hang_up,
        answer(b"{wrong"),
        answer(b"[" * 200_000),
        answer(b"[1, 2]"),
        answer(b'{"choices": []}'),
        answer(said("  ")),
        answer(said(None)),
        answer(b"\xff\xfe"),
        answer(b"x" * (2**20 + 2**15)),
        answer(b"busy", 429),
        answer(b"oops", 500),
        answer(b"gone", 503),
    ],
    ids=[
        "slow",
        "drip",
        "hang_up",
        "no_json",
        "nested",
        "list",
        "empty",
        "blank",
        "null",
        "no_utf8",
        "huge",
        "busy",
        "oops",
        "gone",
    ],
)
def test_what_passes_is_asked_again(server, trouble):
    server.replies = [trouble, YES]
    budget = {"timeout": 0.4, "num_tries": 8} if trouble in (slow, drip) else {}
    (verdict,) = server.judge(**budget).still_a(IMAGES, "pet")
    assert verdict.answer == "yes"
    assert len(server.asked) == 2 or (budget and len(server.asked) > 2)  # on a busy machine


def test_retry_after_is_kept_to(server):
    server.replies = [answer(b"", 429, Retry_After="1"), YES]
    started = time.monotonic()
    assert server.judge().still_a(IMAGES, "pet")[0].passed
    assert time.monotonic() - started >= 1
    server.replies = [answer(b"", 429, Retry_After="3600")]
    judge = server.judge(max_seconds=5)
    (verdict,) = judge.still_a(IMAGES, "pet")
    assert "past the budget of 5 seconds" in verdict.note
    server.asked.clear()
    assert not judge.still_a(IMAGES, "pet")[0].answered
    assert server.asked == []  # nothing more is asked


def test_what_does_not_pass_is_said_and_not_counted(server):
    server.replies = [answer(f"bad key {KEY}".encode(), 401)]
    judge = server.judge()
    (verdict,) = judge.still_a(IMAGES, "pet")
    assert (verdict.answer, verdict.probability, verdict.passed) == ("unknown", 0.5, False)
    assert "status 401: bad key ***" in verdict.note
    assert judge.ask(IMAGES, "What?") == [""]
    assert judge.name_it(IMAGES[0], "pet") == ""
    assert len(server.asked) == 1  # a refused key is refused again
    assert len(judge.problems) == 1
    with pytest.raises(JudgeError, match="status 401") as error:
        judge.probability_of_yes(IMAGES, "Is it?")
    assert KEY not in str(error.value)
    server.replies = [answer(said("It looks like a purse."))]
    (verdict,) = server.judge().still_a(IMAGES, "pet")
    assert not verdict.answered
    assert "neither yes nor no: 'It looks like a purse.'" in verdict.note


def test_a_server_that_knows_less_is_asked_for_less(server):
    def picky(handler):
        body = server.asked[-1][2]
        extra = {"logprobs", "temperature"} & set(body)
        (answer(b"unknown parameter", 400) if extra else YES)(handler)

    server.replies = [picky]
    judge = server.judge()
    assert judge.still_a(IMAGES, "pet")[0].passed
    assert [len(body) for _, _, body in server.asked] == [6, 4, 3]
    assert "max_completion_tokens" in server.asked[2][2]
    judge.still_a(IMAGES, "pet")
    assert len(server.asked) == 4  # it is remembered
    server.replies = [answer(b"no pictures here", 400)]
    assert "no pictures here" in server.judge().still_a(IMAGES, "pet")[0].note


@pytest.mark.parametrize("status", [403, 404, 500])
def test_odd_failures_on_logprobs_are_asked_once_without_them(server, status):
    def picky(handler):
        odd = "logprobs" in server.asked[-1][2]
        (answer(b"no", status) if odd else YES)(handler)

    server.replies = [picky]
    judge = server.judge(num_tries=1)
    assert judge.still_a(IMAGES, "pet")[0].passed
    assert judge.still_a(IMAGES, "pet")[0].passed
    assert len(server.asked) == 3  # it is remembered


def test_an_answer_that_was_cut_off_is_asked_for_with_more_tokens(server):
    def thinking(handler):
        limit = server.asked[-1][2]["max_tokens"]
        text, reason = ("<think>Yes? No?", "length") if limit < 100 else ("No.", "stop")
        choice = {"message": {"content": text}, "finish_reason": reason}
        answer(json.dumps({"choices": [choice]}).encode())(handler)

    server.replies = [thinking]
    assert server.judge().still_a(IMAGES, "pet")[0].answer == "no"
    assert [body["max_tokens"] for _, _, body in server.asked] == [8, 512]


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (
            {"message": {"content": None, "refusal": "I will not."}},
            "the model refuses: I will not.",
        ),
        ({"message": {"content": None}, "finish_reason": "content_filter"}, "the server's filter"),
    ],
)
def test_a_refusal_is_told(server, choice, said):
    server.replies = [answer(json.dumps({"choices": [choice]}).encode())]
    (verdict,) = server.judge(num_tries=1).still_a(IMAGES, "pet")
    assert verdict.answer == "unknown"
    assert said in verdict.note


@pytest.mark.parametrize("top", [7, "x", [1, None], [{"token": "Yes", "logprob": 1e6}], {}])
def test_odd_probabilities_are_no_probabilities(server, top):
    choice = {"message": {"content": "Yes"}}
    choice["logprobs"] = {"content": [{"token": "Yes", "logprob": 1e6, "top_logprobs": top}]}
    server.replies = [answer(json.dumps({"choices": [choice]}).encode())]
    (verdict,) = server.judge().still_a(IMAGES, "pet")
    assert (verdict.answer, verdict.probability) == ("yes", 1.0)
    assert "no probabilities" in verdict.note


def test_a_whole_request_has_one_deadline(server):
    released = threading.Event()

    def trickle(handler):  # headers and body byte by byte, each in time, without an end
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not released.wait(0.02):
            handler.wfile.write(b"X: y\r\n")

    server.replies = [trickle]
    (verdict,) = server.judge(timeout=0.3, num_tries=1).still_a(IMAGES, "pet")
    released.set()
    assert "no whole answer within 0.3 seconds" in verdict.note


@pytest.mark.parametrize(
    ("source", "model", "url"),
    [
        ("m@http://localhost:1", "m", "http://localhost:1/v1"),
        ("m@http://localhost:1/v1/", "m", "http://localhost:1/v1"),
        ("m@http://localhost:1/v1/chat/completions", "m", "http://localhost:1/v1"),
        ("owner/m@2@http://localhost:1/v1", "owner/m@2", "http://localhost:1/v1"),
        ("m@latest", "m@latest", "https://api.openai.com/v1"),
    ],
)
def test_addresses_and_models_as_people_write_them(server, source, model, url):
    judge = ApiJudge.load(source)
    assert (judge.model, judge._client.url) == (model, url)


def test_budgets_end_the_questions(server):
    judge = server.judge(max_requests=3)
    verdicts = judge.still_a(IMAGES.expand(5, -1, -1, -1), "pet")
    assert [verdict.answered for verdict in verdicts] == [True] * 3 + [False] * 2
    assert "budget of 3 requests is spent" in verdicts[-1].note
    server.replies, server.asked = [answer(b"", 500)], []
    verdicts = server.judge(num_tries=2).still_a(IMAGES.expand(6, -1, -1, -1), "pet")
    assert len(server.asked) == 12  # three questions of two tries, each without logprobs too
    assert "3 questions in a row" in verdicts[-1].note


def test_waits_between_tries_grow_and_are_the_same_for_a_seed(server, monkeypatch):
    server.replies = [answer(b"", 500)]
    waits = []
    monkeypatch.setattr("offbeat.judges.http.time.sleep", waits.append)
    for _ in range(2):
        server.judge(backoff=1.0).still_a(IMAGES, "pet")
    half = len(waits) // 2
    assert waits[:half] == waits[half:]
    assert all(2**n / 2 <= wait <= 2**n for n, wait in zip((0, 1, 2), waits[:3], strict=True))


def test_a_redirect_is_not_followed_with_the_key(server):
    other = Server()
    server.replies = [answer(b"", status, Location=other.url) for status in (302, 307)]
    for _ in range(2):
        (verdict,) = server.judge().still_a(IMAGES, "pet")
        assert "redirected to http://127.0.0.1, which is not followed" in verdict.note
    assert other.asked == []
    other.close()


def test_nobody_there(server):
    server.close()
    (verdict,) = server.judge(num_tries=2).still_a(IMAGES, "pet")
    assert "Connection refused" in verdict.note
    assert "tried 2 times" in verdict.note


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/v1",
        "host/v1",
        "http://",
        "http://host:port/v1",
        "http://host/v1 and more",
        "https://me:secret-0@host/v1",
        "https://host/v1?key=secret-0",
        "https://host/v1#secret-0",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret(url):
    with pytest.raises(ConfigError, match="judge:") as error:
        checked_url(url)
    assert "secret-0" not in str(error.value)


def test_which_key_goes_where(monkeypatch):
    for name in ("OFFBEAT_API_KEY", "OFFBEAT_API_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert Client("https://api.openai.com/v1", Budget())._key == KEY
    assert Client("https://elsewhere.example/v1", Budget())._key == ""
    monkeypatch.setenv("OPENAI_BASE_URL", "https://elsewhere.example/v1")
    assert Client("https://elsewhere.example/v1", Budget())._key == KEY
    assert ApiJudge.load("m").name == "api:m@elsewhere.example"
    monkeypatch.setenv("OFFBEAT_API_KEY", "own")
    assert Client("https://third.example/v1", Budget())._key == "own"
    with pytest.raises(ConfigError, match="in the clear"):
        Client("http://third.example/v1", Budget())
    monkeypatch.setenv("OFFBEAT_API_KEY", f"{KEY}\nX-Other: 1")
    with pytest.raises(ConfigError, match="printable") as error:
        Client("https://third.example/v1", Budget())
    assert KEY not in str(error.value)
    with pytest.raises(ConfigError, match="no model"):
        ApiJudge.load("@https://third.example/v1")
    with pytest.raises(ConfigError, match="timeout"):
        Budget(timeout=0)


def test_large_pictures_are_sent_small():
    noise = torch.randint(0, 256, (1500, 3000, 3), generator=stream(0, "noise")).byte()
    sent = data_url(Image.fromarray(noise.numpy()))
    size = Image.open(io.BytesIO(base64.b64decode(sent.split(",")[1]))).size
    assert size == (768, 384)
