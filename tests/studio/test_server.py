"""The real command: a flood, a stream left open, a kill, and what comes back."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from asking import LIMIT, SMALL

from offbeat.studio.server import free_port

SLOW = {**SMALL, "hold_tolerance": 0.0, "judge_every": 1000}


class Server:
    """``offbeat studio`` as a process of its own."""

    def __init__(self, folder, cache):
        self.folder, self.port, self.cookie = folder, free_port("127.0.0.1"), ""
        self.env = {**os.environ, "OFFBEAT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}

    def start(self):
        command = [sys.executable, "-c", "from offbeat.cli import main; main()", "studio",
                   "--no-open", "--folder", self.folder, "--port", str(self.port)]  # fmt: skip
        self.process = subprocess.Popen(
            list(map(str, command)), env=self.env, stdout=subprocess.PIPE, text=True
        )
        for line in self.process.stdout:
            if "http://" in line:
                return self
        raise AssertionError(f"it ended with {self.process.wait()}")

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)

    def call(self, method, path, body=None):
        link = self.connect()
        data = None if body is None else json.dumps(body)
        headers = {"content-type": "application/json", "cookie": self.cookie}
        link.request(method, f"/api/v1{path}", data, headers)
        answer = link.getresponse()
        if cookie := answer.headers["set-cookie"]:
            self.cookie = cookie.split(";")[0]
        found = json.loads(answer.read() or "null")
        link.close()
        assert answer.status < 300, found
        return found

    def wait_for(self, job, condition, seconds=LIMIT):
        until = time.monotonic() + seconds
        while not condition(found := self.call("GET", f"/jobs/{job['id']}")):
            assert time.monotonic() < until, found
            time.sleep(0.1)
        return found

    def stop(self, how):
        self.process.send_signal(how)
        self.process.wait(LIMIT)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("cache")).start()
    yield one
    one.process.kill()
    one.process.wait(LIMIT)
    one.process.stdout.close()


@pytest.mark.parametrize("told", [True, False], ids=["length", "chunked"])
def test_a_gigabyte_is_cut_off_early(server, told):
    """The body is streamed: with its length in front, and with none at all."""
    server.call("GET", "/session")
    before = psutil.Process(server.process.pid).memory_info().rss
    block = b"x" * 2**20
    with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT) as link:
        size = f"Content-Length: {2**30}" if told else "Transfer-Encoding: chunked"
        link.sendall(
            f"POST /api/v1/uploads HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n{size}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode()
        )
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        sent, link_is_open = 0, True
        while link_is_open and sent < 2**30:
            data = (part + block) if sent == 0 else block
            try:
                link.sendall(data if told else f"{len(data):x}\r\n".encode() + data + b"\r\n")
                sent += len(data)
                link.settimeout(0.001)
                first = link.recv(200)
                link_is_open = not first
            except TimeoutError:
                pass
            except OSError:
                link_is_open, first = False, b""
            link.settimeout(LIMIT)
    assert sent < 100 * 2**20
    assert not first or b"413" in first.split(b"\r\n")[0]
    after = psutil.Process(server.process.pid).memory_info().rss
    assert after - before < 100 * 2**20
    left = [path for path in (server.folder / "uploads").glob("*")] if (
        server.folder / "uploads").exists() else []  # fmt: skip
    assert left == []


def test_a_killed_server_comes_back_with_everything(server):
    small = {"num_images": 1, "num_inference_steps": 1, "prior_num_inference_steps": 2}
    done = server.call("POST", "/jobs", {"verb": "generate", "prompt": "an owl", **small})
    server.wait_for(done, lambda job: job["state"] == "finished")
    ask = {"verb": "explore", "subject": "castle", "num_steps": 16, "num_images": 1,
           "judge": "none", "preview_every": 8, "config": SLOW}  # fmt: skip
    running = server.call("POST", "/jobs", ask)
    waiting = server.call("POST", "/jobs", {"verb": "generate", "prompt": "a cat", **small})

    stream = server.connect()
    stream.request("GET", "/api/v1/events", headers={"cookie": server.cookie})
    events = stream.getresponse()
    found = []
    while len({"progress", "picture", "map", "point"} - {one for one, _ in found}) > 0:
        line = events.readline().decode()
        if line.startswith("event: "):
            found.append((line[7:].strip(), json.loads(events.readline().decode()[6:])))
    assert {data["job"] for _, data in found} == {running["id"]}
    trace = server.folder / "runs" / running["id"] / "trace.jsonl"
    while len(trace.read_text().splitlines()) < 6:
        time.sleep(0.02)
    server.stop(signal.SIGKILL)
    stream.close()
    before = trace.read_text().splitlines()
    assert not (trace.parent / "done.json").exists()

    server.start()
    assert [run["id"] for run in server.call("GET", "/runs")["runs"]] == [done["id"]]
    back = server.wait_for(running, lambda job: job["state"] == "finished")
    assert back["attempts"] == 2
    server.wait_for(waiting, lambda job: job["state"] == "finished")
    after = trace.read_text().splitlines()
    assert after[:5] == before[:5]  # it went on, and did not begin anew
    assert len(after) == 16

    stream = server.connect()
    stream.request("GET", "/api/v1/events", headers={"cookie": server.cookie, "last-event-id": "7"})
    told = stream.getresponse()
    assert any(told.readline() == b"event: reset\n" for _ in range(6))
    server.stop(signal.SIGTERM)  # with a stream left open: it ends all the same
    assert server.process.returncode in (0, -signal.SIGTERM)
    assert told.read() is not None
    stream.close()
