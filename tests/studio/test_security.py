"""What people may try: each of these is refused, and none of it costs the server anything."""

import io
import json
import pickle
import struct
import zlib

import pytest
from asking import client_of
from PIL import Image

JOB = {"verb": "generate", "prompt": "an owl"}


def png(width, height, mode="RGB"):
    data = io.BytesIO()
    Image.new(mode, (width, height)).save(data, "PNG")
    return data.getvalue()


def send(browser, name, data, path="uploads"):
    return browser.client.post(f"/api/v1/{path}", files={"file": (name, data)})


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8188", "127.0.0.1.evil.example", ""]
)
def test_a_forged_host_is_refused(browser, host):
    answer = browser.client.get("/api/v1/about", headers={"host": host})
    assert (answer.status_code, answer.json()["kind"]) == (400, "bad_request")


@pytest.mark.parametrize("host", ["localhost:9", "127.0.0.1", "[::1]:8188", "LOCALHOST"])
def test_our_own_names_are_taken(browser, host):
    answer = browser.client.get("/api/v1/session", headers={"host": host})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},  # another page on this machine
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_another_page_changes_nothing(browser, headers):
    for method, path in (("POST", "jobs"), ("DELETE", "jobs/0123456789abcdef")):
        answer = browser.client.request(method, f"/api/v1/{path}", json=JOB, headers=headers)
        assert (answer.status_code, answer.json()["kind"]) == (403, "forbidden")
    read = browser.client.get("/api/v1/about", headers=headers)
    assert "access-control-allow-origin" not in read.headers


def test_a_page_of_ours_is_closed_to_frames_and_foreign_scripts(browser):
    answer = browser.client.get("/api/v1/session")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_session_is_a_signed_cookie(studio_app):
    client = client_of(studio_app)
    first = client.get("/api/v1/session").headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(first.split("; "))
    assert "set-cookie" not in client.get("/api/v1/session").headers
    name, value = first.split(";")[0].split("=", 1)
    forged = client_of(studio_app)
    forged.cookies.set(name, value[:-1] + ("0" if value[-1] != "0" else "1"))
    assert "set-cookie" in forged.get("/api/v1/session").headers  # it is a new session


@pytest.mark.parametrize(
    "name",
    [
        "../studio.sqlite", "..%2fstudio.sqlite", "images/../../../studio.sqlite",
        "%2e%2e/%2e%2e/studio.sqlite", "/etc/passwd", "//etc/passwd", "images/0000.png/../../x",
        "images\\..\\..\\studio.sqlite", "checkpoint/state.safetensors", "done.json", ".lock",
        "images/0000.png%00.html", "C:/Windows/win.ini", "trials/0/../../../studio.sqlite",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_a_run(explored, name):
    own, job = explored
    answer = own.client.get(f"/api/v1/runs/{job['id']}/files/{name}")
    assert answer.status_code in (404, 422)
    assert "sqlite" not in answer.text.replace(name, "")


@pytest.mark.parametrize("path", ["runs", "jobs", "uploads"])
@pytest.mark.parametrize("name", ["..", "%2e%2e%2f", "../../etc", "0" * 15, "A" * 16, "0" * 16])
def test_an_identifier_is_no_path(browser, path, name):
    answer = browser.client.get(f"/api/v1/{path}/{name}")
    assert answer.status_code in (404, 422)


def test_static_files_are_the_page_s_own(browser):
    for name in (
        "../app.py",
        "..%2fapp.py",
        "%2e%2e/app.py",
        "/etc/passwd",
        "../../pocket/CARD.md",
    ):
        assert browser.client.get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize(
    "request_",
    [
        {"verb": "explore", "subject": "/etc/passwd.png"},
        {"verb": "explore", "subject": "x", "judge": "/tmp/judge"},
        {"verb": "explore", "subject": "x", "judge": "api"},
        {"verb": "explore", "subject": "x", "backbone": "../checkpoint"},
        {"verb": "explore", "subject": "x", "config": {"space": "../.."}},
        {"verb": "explore", "subject": "x", "config": {"num_baseline": 10**6}},
        {"verb": "explore", "subject": "x", "method": "best-of-n", "config": {"metric": "/a/b"}},
        {"verb": "explore", "subject": "x", "out": "/tmp/x"},
        {
            "verb": "fuse",
            "method": "magicmix",
            "sources": [{"word": "/etc/a.png"}, {"word": "cat"}],
        },
        {"verb": "fuse", "sources": [{"word": "pig"}, {"word": "..\\owl"}]},
        {"verb": "paint", "art": "/etc/passwd"},
        {"verb": "render", "sources": ["runs/../x"]},
    ],
)
def test_nothing_of_a_request_becomes_a_path(browser, request_):
    answer = browser.client.post("/api/v1/jobs", json=request_)
    assert answer.status_code == 422, answer.text


def test_a_decompression_bomb_is_not_decoded(browser):
    def chunk(kind, data):
        sum_ = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + sum_

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 10**6))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")
    for path in ("uploads", "recall"):
        answer = send(browser, "bomb.png", bomb, path)
        assert answer.status_code == 422
        assert "megapixels" in answer.json()["error"]


@pytest.mark.parametrize("name", ["a.svg", "a.png", "a.html"])
def test_a_picture_with_a_script_is_none(browser, name):
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    assert send(browser, name, svg).status_code == 422
    assert browser.get("/uploads")["uploads"] == []


def test_a_picture_is_written_anew(browser):
    data = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "<script>alert(1)</script>"
    Image.new("RGB", (3000, 30), "teal").save(data, "JPEG", exif=exif)
    polyglot = data.getvalue() + b"<script>alert(1)</script>"
    kept = send(browser, "../<b>a</b>.html", polyglot).json()
    assert (kept["name"], kept["width"], kept["height"]) == ("b>.html", 2048, 20)
    answer = browser.client.get(kept["url"])
    assert answer.headers["content-type"] == "image/png"
    assert b"script" not in answer.content
    assert Image.open(io.BytesIO(answer.content)).info == {}


def test_a_pickle_is_no_concept(browser, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-here"), "w"))

    zipped = io.BytesIO()
    import zipfile

    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    liar = struct.pack("<Q", len(header)) + header.encode()
    for data in (pickle.dumps(Evil()), zipped.getvalue(), liar, struct.pack("<Q", 2**60) + b"{}"):
        answer = send(browser, "evil.safetensors", data)
        assert answer.status_code == 422, answer.text
        assert str(tmp_path) not in answer.text
    assert not (tmp_path / "was-here").exists()


def test_a_body_that_is_no_upload_is_small(browser):
    headers = {"content-type": "application/json"}
    answer = browser.client.post("/api/v1/jobs", content=b" " * (2**20 + 1), headers=headers)
    assert (answer.status_code, answer.json()["kind"]) == (413, "too_large")

    # without a length in front; that one which never ends is cut off, is in test_server.py
    parts = iter([b" " * 2**19] * 3)
    answer = browser.client.post("/api/v1/jobs", content=parts, headers=headers)
    assert answer.status_code == 413


def test_a_body_without_its_type_is_told_so(browser):
    for kind in ("", "application/x-www-form-urlencoded", "text/plain"):
        answer = browser.client.post("/api/v1/jobs", content=b"{}", headers={"content-type": kind})
        assert (answer.status_code, answer.json()["kind"]) == (415, "media_type")


def test_errors_say_nothing_of_this_machine(browser, monkeypatch):
    studio = browser.client.app.state.studio

    def fails(*args):
        raise RuntimeError(f"{studio.folder}: secret")

    monkeypatch.setattr(studio.catalogue, "as_json", fails)
    app = browser.client.app
    answer = client_of(app, raise_server_exceptions=False).get("/api/v1/about")
    assert (answer.status_code, answer.json()["kind"]) == (500, "failed")
    assert "secret" not in answer.text
    absent = browser.client.get("/api/v1/no-such-route")
    assert absent.json()["kind"] == "not_found"


def test_ten_thousand_jobs_are_refused_politely(browser, monkeypatch):
    studio = browser.client.app.state.studio
    monkeypatch.setattr(studio.queue, "pump", lambda: None)
    codes = [browser.client.post("/api/v1/jobs", json=JOB) for _ in range(25)]
    assert [one.status_code for one in codes] == [202] * 20 + [429] * 5
    assert int(codes[-1].headers["retry-after"]) > 0
    # 10,000 in all come from sessions that are made anew: the queue of all has its own end
    monkeypatch.setattr("offbeat.studio.routes.IN_ALL", 22)
    other = client_of(browser.client.app)
    codes = [other.post("/api/v1/jobs", json=JOB).status_code for _ in range(5)]
    assert codes == [202, 202, 429, 429, 429]
    for client in (browser.client, other):
        for job in client.get("/api/v1/jobs?state=queued").json()["jobs"]:
            assert client.delete(f"/api/v1/jobs/{job['id']}").json()["state"] == "cancelled"


@pytest.fixture
def guarded(tmp_path):
    """A studio that others can reach; its worker is not needed, and not started."""
    from offbeat.studio.app import create_app
    from offbeat.studio.state import Settings

    app = create_app(Settings(folder=tmp_path, host="0.0.0.0", token="correct horse"))
    yield app
    app.state.studio.database.close()


def test_a_token_is_asked_for_and_compared(guarded):
    client = client_of(guarded, follow_redirects=False)
    assert client.get("/api/v1/about").status_code == 401
    assert client.get("/static/theme.js").status_code == 303
    assert client.post("/api/v1/jobs", json=JOB).status_code == 401
    page = client.get("/")
    assert (page.status_code, page.headers["location"]) == (303, "/login?next=/")
    assert "set-cookie" not in page.headers
    for token in ("wrong", "", "correct hors", "é"):
        assert client.post("/login", data={"token": token}).status_code == 403
        bearer = {"authorization": f"Bearer {token}".encode()}
        assert client.get("/api/v1/session", headers=bearer).status_code == 401
    right = {"authorization": "Bearer correct horse"}
    assert client_of(guarded).get("/api/v1/session", headers=right).is_success
    entered = client.post("/login", data={"token": "correct horse", "next": "//evil.example"})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert client.get("/api/v1/session").status_code == 200
    assert client.get("/api/v1/session", headers={"host": "192.168.1.9:1"}).status_code == 200
    assert client.get("/api/v1/session", headers={"host": "evil.example"}).status_code == 400


def test_a_cookie_that_was_signed_without_the_token_opens_nothing(guarded):
    from offbeat.studio.security import Rules

    studio = guarded.state.studio
    secret = studio.database.secret()
    for token, status in ((None, 401), ("another one", 401), ("correct horse", 200)):
        rules = Rules.of(secret, host="0.0.0.0", token=token)
        client = client_of(guarded)
        client.cookies.set(rules.cookie, rules.new_cookie())
        assert client.get("/api/v1/session").status_code == status


def from_address(app, address, **kwargs):
    from fastapi.testclient import TestClient

    return TestClient(app, base_url="http://localhost", client=(address, 5000), **kwargs)


def test_wrong_tokens_are_counted_by_address_over_both_doors(guarded, monkeypatch):
    async def at_once(seconds):
        return None

    monkeypatch.setattr("offbeat.studio.pages.asyncio.sleep", at_once)
    thief, guest = (from_address(guarded, name) for name in ("203.0.113.7", "198.51.100.9"))
    right, wrong = ({"authorization": f"Bearer {one}"} for one in ("correct horse", "x"))
    for _ in range(5):
        assert thief.get("/api/v1/session", headers=wrong).status_code == 401
        assert thief.post("/login", data={"token": "y"}).status_code == 403
    assert thief.get("/api/v1/session", headers=wrong).status_code == 429
    assert thief.get("/api/v1/session", headers=right).status_code == 429  # it could be a guess
    assert thief.post("/login", data={"token": "correct horse"}).status_code == 429
    assert guest.get("/api/v1/session", headers=right).status_code == 200
    entered = guest.post("/login", data={"token": "correct horse"}, follow_redirects=False)
    assert entered.status_code == 303


def test_requests_without_a_cookie_do_not_escape_the_limits(studio_app, monkeypatch):
    from offbeat.studio.security import Counter

    guard = studio_app.middleware_stack
    while type(guard).__name__ != "Guard":
        guard = guard.app
    monkeypatch.setattr(guard, "new_sessions", Counter(3))
    codes = []
    for _ in range(5):
        client = client_of(studio_app)  # each without the cookie of the one before
        codes.append(client.post("/api/v1/jobs", json={"verb": "none"}).status_code)
    assert codes == [422, 422, 422, 429, 429]


def test_a_cookie_is_secure_behind_tls_and_the_same_on_every_port(studio_app):
    from fastapi.testclient import TestClient

    names = set()
    for base in ("http://localhost:1", "https://localhost:2"):
        client = TestClient(studio_app, base_url=base)
        client.portal = client_of(studio_app).portal
        cookie = client.get("/api/v1/session").headers["set-cookie"]
        assert ("Secure" in cookie) == base.startswith("https")
        names.add(cookie.split("=")[0])
    assert len(names) == 1


def test_a_cookie_of_another_program_breaks_nothing(browser):
    own = browser.client.cookies
    ((name, value),) = own.items()
    odd = f'other={{"a": [1]}}; x y=z; bad\x7f; {name}={value}; last="'
    answer = client_of(browser.client.app).get("/api/v1/session", headers={"cookie": odd})
    assert "set-cookie" not in answer.headers


def test_the_page_has_one_address_on_this_machine(browser):
    answer = browser.client.get("http://localhost:8188/?a=b", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "http://127.0.0.1:8188/?a=b")


def test_a_full_disk_takes_nothing_more(browser, monkeypatch):
    studio = browser.client.app.state.studio
    monkeypatch.setattr("offbeat.studio.state.DISK_RESERVE", 2**62)
    monkeypatch.setattr(studio, "_disk_read", -1e9)
    for answer in (
        browser.client.post("/api/v1/jobs", json=JOB),
        send(browser, "a.png", png(8, 8)),
    ):
        assert (answer.status_code, answer.json()["kind"]) == (507, "full")
        assert "remove" in answer.json()["error"]
    monkeypatch.undo()
    monkeypatch.setattr(studio, "_disk_read", -1e9)
    assert send(browser, "a.png", png(8, 8)).status_code == 201


@pytest.mark.parametrize(
    "header",
    [
        b'{"__metadata__": {"a": "' + b"x" * 2**20 + b'"}}',
        b"{" + b", ".join(
            b'"t%d": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}' % number
            for number in range(5000)
        ) + b"}",
    ],
    ids=["long", "many"],
)  # fmt: skip
def test_a_header_that_is_too_much_is_not_read(browser, header):
    answer = send(browser, "a.safetensors", struct.pack("<Q", len(header)) + header)
    assert answer.status_code == 422
    assert "at most" in answer.json()["error"]


def test_a_long_thin_picture_is_refused(browser):
    answer = send(browser, "a.png", png(20_000, 2))
    assert answer.status_code == 422
    assert "16384 pixels a side" in answer.json()["error"]


def test_a_run_folder_that_is_a_link_is_not_followed(tmp_path):
    from offbeat.studio.files import allowed_file

    real, runs = tmp_path / "elsewhere", tmp_path / "runs"
    for folder in (real, runs / "own"):
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text("{}")
    (runs / "linked").symlink_to(real)
    assert allowed_file(runs / "own", "summary.json") is not None
    assert allowed_file(runs / "linked", "summary.json") is None
