"""How long a person waits, measured in a browser: ``python tests/studio/measure_browser.py``.

From the press of Go to the first picture that is painted, and from a key on a slider to the
picture that follows it: medians of 20, on the machine as it is.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from browsing import a_browser, a_studio, explore

WATCH = """selector => new Promise(done => {
  const look = () => {
    const one = document.querySelector(selector);
    const there = one && (one.tagName !== 'IMG' || (one.complete && one.naturalWidth));
    there ? requestAnimationFrame(() => done(performance.now())) : setTimeout(look, 5);
  };
  look();
})"""


def first_picture(page, address, word):
    """Return the seconds from the press of Go to the first picture."""
    page.goto(f"{address}/#/queue")
    page.goto(f"{address}/#/explore")
    page.reload()
    page.wait_for_selector("#explore-word")
    start = time.perf_counter()
    explore(page, word)
    page.evaluate(WATCH, ".run .cell img")
    seconds = time.perf_counter() - start
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Resume").wait_for()
    return seconds


def slider(page, key):
    """Return the seconds from a key on a slider to the picture of its new place."""
    page.locator(".mixer input[type=range]").first.focus()
    before = page.evaluate("performance.now()")
    page.keyboard.press(key)
    told = page.locator(".follow-caption").inner_text()
    after = page.evaluate(WATCH, f'.follower canvas[aria-label="{told}"]')
    return (after - before) / 1000


def tell(name, seconds):
    """Print the median and the spread."""
    low, high = min(seconds), max(seconds)
    median = statistics.median(seconds)
    print(f"{name}: {median:.2f} s, median of {len(seconds)} ({low:.2f} to {high:.2f})", flush=True)


def main(repeats=20):
    """Measure both."""
    print(f"load of the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with (
        tempfile.TemporaryDirectory() as folder,
        a_studio(Path(folder)) as address,
        a_browser() as browser,
    ):
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.goto(f"{address}/#/fuse")
        page.wait_for_selector(".follower canvas.tiny")
        tell("slider to picture", [slider(page, "ArrowRight") for _ in range(repeats)])
        other = page.context.new_page()
        other.goto(f"{address}/#/explore")
        other.wait_for_selector("#explore-word")
        explore(other, "castle")
        other.wait_for_selector(".step[data-step='5']")
        told = [slider(page, "ArrowLeft") for _ in range(repeats)]
        tell("slider to picture, while a search runs", told)
        other.get_by_role("button", name="Cancel").click()
        other.get_by_role("button", name="Resume").wait_for()
        other.close()
        words = ["handbag", "castle", "chair", "owl"]
        told = [first_picture(page, address, words[i % 4]) for i in range(repeats)]
        tell("click to first picture", told)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
