"""Compare: two runs are chosen and laid over each other."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from app.views.text import title_of
from tests.app.browser.furnished import Furnished
from tests.app.browser.served import settled

OpenTab = Callable[..., Page]


def test_two_runs_chosen_their_curves_and_what_was_set_differently(
    furnished: Furnished, open_tab: OpenTab
) -> None:
    page = settled(open_tab(f"{furnished.studio.url}/compare"))
    runs = page.get_by_role("combobox", name="Runs")
    for _ in range(2):
        runs.press("Backspace")
    expect(page.get_by_text("Choose runs above")).to_be_visible()
    titles = [title_of(furnished.made[state].id) for state in ("second", "finished")]
    for title in titles:
        runs.fill(title)
        runs.press("Enter")
    runs.press("Escape")
    expect(page.get_by_text("What was set differently")).to_be_visible()
    settled(page)
    settings = page.get_by_role("table").nth(1)
    for title in titles:
        expect(page.get_by_label(re.compile(f"^Held-out loss.*{title}"))).to_be_visible()
        expect(settings).to_contain_text(title)
    expect(settings).to_contain_text("training.learning_rate")
    expect(settings).to_contain_text("0.0001")
    assert all(furnished.made[state].id in page.url for state in ("second", "finished"))


def test_a_narrow_screen_shows_tables_whole_and_long_answers_folded(
    furnished: Furnished, open_tab: OpenTab
) -> None:
    chosen = "&".join(f"runs={furnished.made[state].id}" for state in ("hostile", "finished"))
    page = open_tab(f"{furnished.studio.url}/compare?{chosen}")
    page.set_viewport_size({"width": 390, "height": 1000})
    whole = "tables => tables.map(table => table.scrollWidth <= table.clientWidth)"
    expect(settled(page).locator(".ts-table")).to_have_count(3)
    assert page.locator(".ts-table").evaluate_all(whole) == [True] * 3
    answer, height = page.locator(".ts-text:has(+ details)").first, "text => text.clientHeight"
    folded = answer.evaluate(height)
    page.get_by_text("Show all").first.click()
    assert answer.evaluate(height) > 2 * folded
    page.get_by_text("Show less").first.click()
    assert answer.evaluate(height) == folded
