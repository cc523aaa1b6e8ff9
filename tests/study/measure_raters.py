"""Time how long an answer takes while 50 raters answer at once, on a real server.

Run alone on a quiet machine: ``python tests/study/measure_raters.py``. It also checks that every
acknowledged answer is stored once.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from studies import make

from offbeat.study.storage import Storage

RATERS, ANSWERS = 50, 12


def call(address, path, token, body=None):
    """Return the JSON answer of one request."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/api/study/{path}", data, headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def take_part(address, token, seconds):
    """Answer, each request twice; note how long the first took."""
    call(address, "state", token)
    for at in range(ANSWERS):
        body = {"key": f"decision-{at:04d}", "position": at, "value": "left", "seconds": 1.0}
        start = time.perf_counter()
        call(address, "answers", token, body)
        seconds.append(time.perf_counter() - start)
        call(address, "answers", token, body)


def main():
    """Print the median, the slowest, and whether all answers are there once."""
    with tempfile.TemporaryDirectory() as folder:
        study = make(Path(folder), raters=RATERS, trials=8)
        storage = Storage(study)
        tokens = storage.invite(RATERS)
        program = [sys.executable, "-u", "-m", "offbeat", "study", "serve", str(study.folder)]
        process = subprocess.Popen([*program, "--port", "0"], stdout=subprocess.PIPE, text=True)
        address = re.search(r"http://[\d.:]+", process.stdout.readline())[0]
        seconds = []
        threads = [
            threading.Thread(target=take_part, args=[address, token, seconds]) for token in tokens
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        process.terminate()
        process.wait()
        kept = [rater.position for rater in storage.raters()]
        assert kept == [ANSWERS] * RATERS, kept
        print(
            f"{RATERS} raters at once, {len(seconds)} answers: median "
            f"{statistics.median(seconds) * 1000:.0f} ms, slowest {max(seconds) * 1000:.0f} ms; "
            "all stored once"
        )


if __name__ == "__main__":
    main()
