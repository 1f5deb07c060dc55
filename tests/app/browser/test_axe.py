"""axe-core finds nothing grave on any page, light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page

from tests.app.browser.axe import findings
from tests.app.browser.furnished import Furnished
from tests.app.browser.served import PATIENCE_MS, settled

ADDRESSES = {
    "home": "",
    "data": "data",
    "new_run": "new_run",
    "run": "run",
    "queue": "queue",
    "compare": "compare",
    "playground": "playground",
    "export": "export",
    "settings": "settings",
    "help": "help",
    **{f"run {state}": f"run?run={state}" for state in ("running", "queued", "failed", "hostile")},
    **{f"run {body}": f"run?run=failed&show={body}" for body in ("Samples", "Machine", "Log", "Details")},
}


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """One tab for all pages, so that the studio's scripts are fetched once."""
    tab = browser.new_page(viewport={"width": 1280, "height": 1000}, reduced_motion="reduce")
    tab.set_default_timeout(PATIENCE_MS)
    yield tab
    tab.close()


@pytest.fixture
def look(page: Page, furnished: Furnished) -> Callable[[str], Page]:
    """Opens an address; a state in it stands for the run in that state."""

    def open_(address: str) -> Page:
        for state, run in furnished.made.items():
            address = address.replace(f"run={state}", f"run={quote(run.id)}")
        page.goto(f"{furnished.studio.url}/{address}")
        assert settled(page).get_by_test_id("stException").count() == 0
        return page

    return open_


def test_every_page_is_looked_at() -> None:
    pages = {path.stem for path in (Path(__file__).parents[3] / "app" / "pages").glob("[a-z]*.py")}
    assert "home" in pages
    assert pages <= set(ADDRESSES)


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_page(look: Callable[[str], Page], name: str) -> None:
    assert findings(look(ADDRESSES[name])) == []


def test_every_setting_and_what_is_wrong_with_it(look: Callable[[str], Page]) -> None:
    page = look("new_run")
    page.get_by_text("Expert", exact=True).click()
    page.get_by_role("textbox", name="Seed").or_(page.get_by_role("spinbutton", name="Seed")).first.wait_for()
    assert findings(settled(page)) == []


def test_rows_with_all_their_problems(look: Callable[[str], Page], furnished: Furnished) -> None:
    page = look("data")
    page.locator("input[type=file]").set_input_files(furnished.rows)
    page.get_by_role("button", name="Show what would change").click()
    page.get_by_role("button", name="Write the mended copy").wait_for()
    assert findings(settled(page)) == []
    page.get_by_text("Duplicates", exact=True).click()
    page.get_by_text("Repeats among").wait_for()
    assert findings(settled(page)) == []


def test_a_question_that_is_asked_first(look: Callable[[str], Page]) -> None:
    page = look("run?run=finished")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").wait_for()
    assert findings(settled(page)) == []


def test_a_conversation(look: Callable[[str], Page]) -> None:
    page = look("playground")
    page.get_by_placeholder("Say something").fill("food pork")
    page.get_by_placeholder("Say something").press("Enter")
    page.get_by_role("button", name="Start over").wait_for()
    assert findings(settled(page)) == []
