"""How quick the studio is: ``python benchmarks/studio_speed.py``. It fails when a figure misses its bound.

The studio and the browser are real; 50 finished runs lie beside a live one that gets a step each half second, and
beside one of 100,000 steps.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import Browser, Page

from backend.run.folder import RunDir
from backend.run.metrics import metrics_record
from tests.app.browser.served import ServedStudio, chromium, settled
from tests.app.states import Runs, step_report

WATCHED_SECONDS = 20.0
LONG = 100_000
PAGES = ("Runs", "Queue", "Compare", "Data", "New run", "Playground", "Export", "Settings", "Help", "Home")
BOUNDS = {
    "first page": 2.0,
    "change of page": 1.0,
    "long curve": 1.5,
    "long curve again": 1.5,
    "live update": 3.0,
    "studio while watching": 0.10,
}
"""Seconds, and a share of a core. Live figures are drawn every two seconds; the third is for drawing them."""
HEADING = "name => [...document.querySelectorAll('h1')].some(heading => heading.innerText.trim() === name)"
CURVE = "() => document.querySelector('[data-testid=stVegaLiteChart] .marks')"
"""Both are looked at with every frame; a locator would look each half second, and a figure be as coarse."""
NOTE_STEPS = """() => {
  window.moments = [];
  let last = '';
  setInterval(() => {
    const shown = document.querySelector('[data-testid=stProgress]').textContent;
    if (shown !== last) { last = shown; window.moments.push(performance.now() / 1000); }
  }, 50);
}"""


@contextmanager
def growing(run: RunDir) -> Iterator[None]:
    """A step each half second, as a trainer writes it."""
    done = threading.Event()

    def write() -> None:
        with run.metrics_writer() as metrics:
            for step in range(41, LONG):
                if done.wait(0.5):
                    return
                metrics.append(metrics_record(step_report(step, LONG)))

    writer = threading.Thread(target=write)
    writer.start()
    yield
    done.set()
    writer.join()


def first_page(page: Page, studio: ServedStudio) -> float:
    """Seconds from asking for the address until its heading can be read."""
    began = time.perf_counter()
    page.goto(studio.url)
    page.wait_for_function(HEADING, arg="Home")
    return time.perf_counter() - began


def change_to(page: Page, name: str) -> float:
    """Seconds from the click until the page is whole."""
    began = time.perf_counter()
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name, exact=True).click()
    page.wait_for_function(HEADING, arg=name)
    settled(page)
    return time.perf_counter() - began


def curve(page: Page, studio: ServedStudio, run: RunDir) -> float:
    """Seconds from asking for a run's address until its first curve is drawn."""
    settled(page)
    began = time.perf_counter()
    page.goto(f"{studio.url}/run?run={run.id}")
    page.wait_for_function(CURVE)
    return time.perf_counter() - began


def watch(page: Page, studio: ServedStudio, live: RunDir) -> tuple[float, float]:
    """While one tab looks at a live run: the longest time without news, and the studio's share of a core."""
    with growing(live):
        page.goto(f"{studio.url}/run?run={live.id}")
        settled(page).wait_for_timeout(2000)
        page.evaluate(NOTE_STEPS)
        before = psutil.Process(studio.pid).cpu_times()
        page.wait_for_timeout(1000 * WATCHED_SECONDS)
        after = psutil.Process(studio.pid).cpu_times()
        moments = page.evaluate("window.moments")
    used = after.user + after.system - before.user - before.system
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    return max(gaps, default=WATCHED_SECONDS), used / WATCHED_SECONDS


def measure(root: Path, browser: Browser) -> dict[str, float]:
    """Every figure in ``BOUNDS``."""
    runs = Runs(root / "runs")
    live = runs.running("live", total=LONG)
    for number in range(50):
        runs.finished(f"run {number}")
    long = runs.ended("long", steps=LONG, total=LONG)
    with ServedStudio(root) as studio:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        found = {"first page": first_page(page, studio)}
        changes = {name: change_to(settled(page), name) for name in PAGES}
        print("  ".join(f"{name} {seconds:.2f} s" for name, seconds in changes.items()))
        found["change of page"] = max(changes.values())
        found["long curve"] = curve(page, studio, long)
        found["long curve again"] = curve(page, studio, long)
        found["live update"], found["studio while watching"] = watch(page, studio, live)
    runs.close()
    return found


def main() -> int:
    """Measure, print each figure beside its bound, and return 1 when one is missed."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        found = measure(Path(folder), browser)
    for name, bound in BOUNDS.items():
        print(f"{name:22} {found[name]:.2f}  at most {bound:g}{'' if found[name] <= bound else '  MISSED'}")
    return int(any(found[name] > bound for name, bound in BOUNDS.items()))


if __name__ == "__main__":
    sys.exit(main())
