"""A run started from two tabs, watched, stopped, resumed and reloaded; a studio that is killed meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from playwright.sync_api import Page, expect

from backend.manager.run_summary import summarise
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from tests.app.browser.served import PATIENCE_MS, ServedStudio
from tests.eventually import eventually

OpenTab = Callable[..., Page]
STEP = re.compile(r"Step ([\d,]+) of [\d,]+")
PATIENCE_SECONDS = PATIENCE_MS / 1000


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def step_of(page: Page) -> int:
    """The step that the page shows; 0 before the first."""
    found = STEP.search(page.get_by_test_id("stMain").inner_text())
    return int(found[1].replace(",", "")) if found else 0


def stands_at(page: Page, words: str, timeout_ms: int = PATIENCE_MS) -> None:
    """The state that the page shows, once it shows it."""
    badge = page.get_by_test_id("stMain").locator(".stMarkdownBadge").first
    expect(badge).to_contain_text(words, timeout=timeout_ms)


def moves_on(page: Page) -> None:
    """Without a click, the page shows another step."""
    before = eventually(lambda: step_of(page), timeout_seconds=PATIENCE_SECONDS)
    eventually(lambda: step_of(page) > before, timeout_seconds=PATIENCE_SECONDS)


def come_back(studio: ServedStudio, run: RunDir, page: Page) -> None:
    """Kill the studio in mid-run and start it again: the page shows the run where it is, without being told."""
    studio.kill()
    assert run.is_held()
    studio.start_again()
    known = summarise(run).step
    page.goto(f"{studio.url}/run?run={run.id}")
    stands_at(page, "Running")
    assert eventually(lambda: step_of(page) >= known, timeout_seconds=PATIENCE_SECONDS)


def test_f07_f12_one_run_is_started_twice_stopped_resumed_and_outlives_a_killed_studio(
    studio: ServedStudio, open_tab: OpenTab, asked: list[str]
) -> None:
    tabs = [open_tab(studio.url), open_tab(studio.url)]
    buttons = [tab.get_by_role("button", name="Start the example") for tab in tabs]
    for button in buttons:
        expect(button).to_be_enabled()
    for button in buttons:
        button.click(no_wait_after=True)
    for tab in tabs:
        tab.wait_for_url("**/run?run=*")
    (run,) = RunDir.all_under(studio.root / "runs")
    assert all(run.id in tab.url for tab in tabs)
    page, other = tabs
    moves_on(page)

    press(page, "Stop")
    expect(page.get_by_role("dialog")).to_contain_text("saves a checkpoint and ends.")
    press(page, "Save and stop")
    for tab in tabs:
        stands_at(tab, "Stopped")
    assert run.status() is RunStatus.STOPPED
    assert run.latest_attempt_number() == 1
    stopped_at = run.newest_checkpoint_step()
    assert stopped_at > 0

    press(page, "Resume")
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    page.get_by_role("dialog").wait_for(state="hidden")
    page.reload()
    assert eventually(lambda: step_of(page), timeout_seconds=PATIENCE_SECONDS) >= stopped_at
    moves_on(page)

    again = open_tab("about:blank")
    come_back(studio, run, again)
    for tab in (again, page, other):  # the old tabs find their way back by themselves
        moves_on(tab)
    assert run.latest_attempt_number() == 2
    run.request_stop()
    for tab in (again, page, other):
        stands_at(tab, "Stopped")
    assert {urlsplit(url).hostname for url in asked if url.startswith("http")} == {"127.0.0.1"}
