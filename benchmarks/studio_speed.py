"""How quick the studio is: ``python benchmarks/studio_speed.py``. First page, page change, live update, long curve.

The studio and the browser are real; 50 finished runs lie beside a live one that gets a step each half second.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import Page

from backend.reports import metrics_record
from backend.run_dir import RunDir
from tests.app.browser.served import ServedStudio, chromium, settled
from tests.app.states import Runs, step_report

WATCHED_SECONDS = 30.0
LONG = 100_000


def grow(run: RunDir, done: threading.Event) -> None:
    """A step each half second, as a trainer writes it."""
    with run.metrics_writer() as metrics:
        for step in range(41, LONG):
            if done.wait(0.5):
                return
            metrics.append(metrics_record(step_report(step, LONG)))


def seconds_to(page: Page, url: str, words: str) -> float:
    """From asking for an address until its heading can be read."""
    began = time.perf_counter()
    page.goto(url)
    page.get_by_role("heading", name=words).first.wait_for()
    return time.perf_counter() - began


def main() -> None:
    """Measure, and print each figure."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        runs = Runs(Path(folder) / "runs")
        live = runs.running("live", total=LONG)
        for number in range(50):
            runs.finished(f"run {number}")
        long = runs.ended("long", steps=LONG, total=LONG)
        began = time.perf_counter()
        with ServedStudio(Path(folder)) as studio:
            served = time.perf_counter() - began
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            first = seconds_to(page, studio.url, "Home")
            print(f"command to listening {served:.2f} s, then first page {first:.2f} s")
            for name in ("Runs", "Queue", "Compare", "Home"):
                settled(page)
                began = time.perf_counter()
                page.get_by_test_id("stSidebarNav").get_by_role("link", name=name, exact=True).click()
                page.get_by_role("heading", name=name, exact=True).wait_for()
                settled(page)
                print(f"change to {name}: {time.perf_counter() - began:.2f} s")
            began = time.perf_counter()
            page.goto(f"{studio.url}/run?run={long.id}")
            page.locator("[data-testid=stVegaLiteChart] .marks").first.wait_for()
            print(f"a curve of {LONG:,} points: {time.perf_counter() - began:.2f} s, page load included")
            watch(page, studio, live)
        runs.close()


def watch(page: Page, studio: ServedStudio, live: RunDir) -> None:
    """The studio's processor time while one tab looks at a live run."""
    done = threading.Event()
    writer = threading.Thread(target=grow, args=(live, done))
    writer.start()
    page.goto(f"{studio.url}/run?run={live.id}")
    settled(page)
    page.wait_for_timeout(2000)
    process = psutil.Process(studio.pid)
    before = process.cpu_times()
    page.wait_for_timeout(1000 * WATCHED_SECONDS)
    after = process.cpu_times()
    used = after.user + after.system - before.user - before.system
    done.set()
    writer.join()
    print(f"studio while watching a live run: {used / WATCHED_SECONDS:.1%} of a core")


if __name__ == "__main__":
    main()
