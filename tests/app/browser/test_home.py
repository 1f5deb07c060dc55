"""Home by keyboard alone, in the dark, and on a small screen; and the command that serves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.app.browser.furnished import Furnished
from tests.app.browser.served import PATIENCE_MS, ServedStudio, settled

LUMINANCE = """(element) => {
  const [r, g, b] = getComputedStyle(element).backgroundColor.match(/[\\d.]+/g).map(Number);
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}"""


@pytest.fixture
def look(browser: Browser, furnished: Furnished) -> Iterator[Callable[..., Page]]:
    """Opens Home as a person with these wishes."""
    pages: list[Page] = []

    def open_(**wishes: object) -> Page:
        pages.append(browser.new_page(**wishes))  # type: ignore[arg-type]
        pages[-1].set_default_timeout(PATIENCE_MS)
        pages[-1].goto(furnished.studio.url)
        return settled(pages[-1])

    yield open_
    for page in pages:
        page.close()


@pytest.mark.parametrize(("scheme", "low", "high"), [("light", 0.9, 1.0), ("dark", 0.0, 0.15)])
def test_it_follows_the_theme_of_the_machine(
    look: Callable[..., Page], scheme: str, low: float, high: float
) -> None:
    shown = look(color_scheme=scheme).get_by_test_id("stApp").evaluate(LUMINANCE)
    assert low <= shown <= high


def test_by_keyboard_alone_to_a_run(look: Callable[..., Page]) -> None:
    page = look()
    reached = []
    while not reached or "running" not in reached[-1]:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.closest('a, button')?.innerText || ''"))
        assert len(reached) < 60, reached
    assert "Start the example" in " ".join(reached)
    page.keyboard.press("Enter")
    page.wait_for_url("**/run?run=*running*")


@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_nothing_is_wider_than_the_window(look: Callable[..., Page], width: int) -> None:
    page = look(viewport={"width": width, "height": 900})
    main = page.get_by_test_id("stMain")
    assert main.evaluate("element => element.scrollWidth - element.clientWidth") <= 0


def test_an_address_opened_first_has_its_navigation(tmp_path: Path, browser: Browser) -> None:
    with ServedStudio(tmp_path) as fresh:
        page = browser.new_page()
        page.goto(f"{fresh.url}/queue")
        settled(page)
        assert page.get_by_test_id("stSidebarNav").get_by_role("link", name="Home").count() == 1
        page.close()
        assert fresh.interrupt() == 0
