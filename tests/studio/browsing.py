"""A real server and a real browser, for the page's tests and timings."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def a_studio(folder):
    """Start ``offbeat studio`` on a free port, and give its address."""
    program = "from offbeat.cli import main; main()"
    command = [sys.executable, "-c", program, "studio", "--no-open", "--port", "0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*command, "--folder", str(folder), "--device", "cpu"],
        env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"http://\S+?(?=/?\s)", line):
                yield found[0]
                break
        else:
            raise AssertionError("".join(said))
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@contextmanager
def a_browser():
    """Start the system's Chromium; nothing is downloaded."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def explore(page, word, **more):
    """Type a word and press Go; ``more`` are fields behind "More", by their labels."""
    page.get_by_label("Explore", exact=True).fill(word)
    if more and not page.get_by_label("Steps", exact=True).is_visible():
        page.get_by_text("More", exact=True).locator("visible=true").click()
    for label, value in more.items():
        field = page.get_by_label(label, exact=True)
        kind = field.evaluate("one => one.tagName")
        field.select_option(value) if kind == "SELECT" else field.fill(value)
    page.get_by_role("button", name="Go", exact=True).click()
