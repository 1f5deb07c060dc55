"""A bad file is uploaded, mended, trained on and talked to, all in a browser, on a tiny real model."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from backend.manager.server_manager import ServerManager
from backend.reports import RunStatus
from backend.run_dir import RunDir
from tests.app.browser.served import PATIENCE_MS, ServedStudio
from tests.eventually import eventually
from tests.runs import ROWS, learner_folder

BAD = [
    *ROWS,
    {"prompt": "<script>document.title='broken'</script>", "completion": "meat"},
    {"prompt": "x", "completion": ""},
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStudio]:
    """A studio in an empty folder; whatever server it starts is ended with it."""
    root = tmp_path_factory.mktemp("journey")
    with ServedStudio(root) as studio:
        yield studio
        ServerManager(root / "runs").stop()


@pytest.fixture(scope="module")
def tab(browser: Browser, served: ServedStudio) -> Iterator[Page]:
    """One tab for the whole journey."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    yield page
    page.close()


def test_from_a_bad_file_to_a_talk(
    tab: Page, served: ServedStudio, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("given")
    model = learner_folder(folder / "model")
    file = folder / "bad.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in BAD) + "{broken\n")

    tab.goto(f"{served.url}/data")
    tab.locator("input[type=file]").set_input_files(str(file))
    expect(tab.get_by_text("Rows stand more than once")).to_be_visible()
    expect(tab.get_by_text("Rows cannot be read")).to_be_visible()
    tab.get_by_role("button", name="Write a mended copy").click()
    expect(tab.get_by_text("in the mended copy")).to_be_visible()
    tab.get_by_role("button", name="Work with the mended copy").click()
    expect(tab.get_by_text("rows.jsonl · 8 rows")).to_be_visible()

    tab.get_by_role("main").get_by_role("link", name="Train on it").click()
    field = tab.get_by_role("textbox", name="Model name or path")
    field.fill(str(model))
    field.press("Enter")
    expect(tab.get_by_text("What it will cost")).to_be_visible()
    tab.get_by_role("button", name="Start now").click()
    (run,) = eventually(lambda: RunDir.all_under(served.root / "runs"), timeout_seconds=60)
    eventually(lambda: run.status() is RunStatus.FINISHED, timeout_seconds=120)
    expect(tab.locator(".stMarkdownBadge").first).to_contain_text("Finished")
    assert "mended" in run.read_config_text()
    assert tab.title() != "broken"

    tab.goto(f"{served.url}/playground?run={run.id}")
    tab.get_by_role("button", name="Start the server").click()
    expect(tab.get_by_text("Server running")).to_be_visible()
    tab.get_by_placeholder("Say something").fill("food pork")
    tab.get_by_placeholder("Say something").press("Enter")
    expect(tab.get_by_role("button", name="Begin anew")).to_be_visible()
    expect(tab.locator('[data-testid="stChatMessage"]')).to_have_count(2)
    tab.get_by_text("Tokens", exact=True).click()
    tab.get_by_role("textbox", name="Prompt").fill("food pork")
    tab.get_by_role("textbox", name="Prompt").press("Control+Enter")
    tab.get_by_role("button", name="Look").click()
    expect(tab.locator(".ts-sure span").first).to_be_visible()
    tab.get_by_role("button", name="Stop the server").click()
    expect(tab.get_by_text("Nobody answers yet")).to_be_visible()
    assert ServerManager(served.root / "runs").find() is None
