"""A bad file is uploaded, mended, trained on, watched, talked to and exported, in a browser, with a real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from app.exports import find_exports
from backend.manager.server_manager import ServerManager
from backend.manager.tensorboard_manager import TensorBoardManager
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from tests.app.browser.axe import findings
from tests.app.browser.served import PATIENCE_MS, ServedStudio, settled
from tests.eventually import eventually
from tests.runs import ROWS, learner_folder

BAD = [
    *ROWS,
    {"prompt": "<script>document.title='broken'</script>", "completion": "meat"},
    {"prompt": "x", "completion": ""},
]
LIGHTS = {"green": "As trained", "amber": "Worth a look"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStudio]:
    """A studio in an empty folder; whatever servers it starts are ended with it."""
    root = tmp_path_factory.mktemp("journey")
    with ServedStudio(root) as studio:
        yield studio
        ServerManager(root / "runs").stop()
        TensorBoardManager(root / "runs").stop()


@pytest.fixture(scope="module")
def tab(browser: Browser, served: ServedStudio) -> Iterator[Page]:
    """One tab for the whole journey."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000}, reduced_motion="reduce")
    page.set_default_timeout(PATIENCE_MS)
    yield page
    page.close()


def test_from_a_bad_file_to_a_model_that_is_taken_away(
    tab: Page, served: ServedStudio, tmp_path: Path
) -> None:
    mend(tab, served, tmp_path)
    run = train(tab, served, str(learner_folder(tmp_path / "model")))
    watch(tab, run)
    talk(tab, served, run)
    export(tab, served, run)
    assert tab.title() != "broken"


def mend(tab: Page, served: ServedStudio, folder: Path) -> None:
    file = folder / "bad.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in BAD) + "{broken\n")
    tab.goto(f"{served.url}/data")
    tab.locator("input[type=file]").set_input_files(file)
    expect(tab.get_by_text("Rows stand more than once").first).to_be_visible()
    expect(tab.get_by_text("Rows cannot be read").first).to_be_visible()
    tab.get_by_role("button", name="Show what would change").click()
    expect(tab.get_by_text("8 rows in the copy")).to_be_visible()
    tab.get_by_role("button", name="Write the mended copy").click()
    expect(tab.get_by_text("in the mended copy")).to_be_visible()
    tab.get_by_role("button", name="Work with the mended copy").click()
    expect(tab.get_by_text("rows.jsonl · 8 rows")).to_be_visible()


def train(tab: Page, served: ServedStudio, model: str) -> RunDir:
    """From New run to a run at work, by keyboard alone."""
    tab.get_by_role("main").get_by_role("link", name="Train on it").press("Enter")
    expect(tab.get_by_role("heading", name="New run")).to_be_visible()
    reach(tab, "Model")
    tab.keyboard.press("Control+A")
    tab.keyboard.type(model)
    tab.keyboard.press("Enter")
    expect(tab.get_by_text("tokens of context")).to_be_visible()
    expect(tab.get_by_text("What it will cost")).to_be_visible()
    expect(tab.get_by_role("button", name="Start now")).to_be_enabled()
    reach(tab, "Start now")
    tab.keyboard.press("Enter")
    (run,) = eventually(lambda: RunDir.all_under(served.root / "runs"), timeout_seconds=60)
    eventually(lambda: run.status() is RunStatus.FINISHED, timeout_seconds=120)
    expect(tab.locator(".stMarkdownBadge").first).to_contain_text("Finished")
    assert "mended" in run.read_config_text()
    return run


def reach(page: Page, name: str) -> None:
    """Press Tab until what is called ``name`` has the focus."""
    seen = []
    while not seen or seen[-1] != name:
        page.keyboard.press("Tab")
        seen.append(page.evaluate(NAME_OF_FOCUS))
        assert len(seen) < 80, seen


NAME_OF_FOCUS = """(() => {
  const one = document.activeElement;
  return (one.getAttribute('aria-label') || one.innerText.split('\\n').pop() || '').trim();
})()"""


def watch(tab: Page, run: RunDir) -> None:
    """The real TensorBoard, started from the run's page, knows the run."""
    tab.get_by_role("button", name="TensorBoard").click()
    link = tab.get_by_role("dialog").get_by_role("link", name="Open TensorBoard")
    address = link.get_attribute("href") or ""
    eventually(
        lambda: run.id in tab.request.get(f"{address.rstrip('/')}/data/runs").text(), timeout_seconds=60
    )
    tab.keyboard.press("Escape")


def talk(tab: Page, served: ServedStudio, run: RunDir) -> None:
    tab.goto(f"{served.url}/playground?run={run.id}")
    start = tab.get_by_role("button", name="Start the server")
    start.wait_for()
    assert findings(settled(tab)) == []
    start.click()
    expect(tab.get_by_text("Server running")).to_be_visible()
    tab.get_by_role("main").get_by_role("button", name="food").first.click()  # a held-out question
    expect(tab.get_by_role("button", name="Start over")).to_be_visible()
    expect(tab.locator('[data-testid="stChatMessage"]')).to_have_count(2)
    tab.get_by_text("Tokens", exact=True).click()
    tab.get_by_role("textbox", name="Prompt").fill("food pork")
    tab.get_by_role("textbox", name="Prompt").press("Control+Enter")
    tab.get_by_role("button", name="Look").click()
    expect(tab.locator(".ts-sure span").first).to_be_visible()
    tab.get_by_role("button", name="Stop the server").click()
    expect(tab.get_by_text("The server is not running")).to_be_visible()
    assert ServerManager(served.root / "runs").find() is None


def export(tab: Page, served: ServedStudio, run: RunDir) -> None:
    tab.goto(f"{served.url}/export?run={run.id}")
    tab.get_by_text("Adapter", exact=True).click()
    tab.get_by_role("button", name="Export and check").click()
    expect(tab.get_by_role("heading", name="Exports")).to_be_visible(timeout=4 * PATIENCE_MS)
    (made,) = find_exports(served.root)
    expect(tab.locator(".stMarkdownBadge").first).to_contain_text(LIGHTS[made.light])
    tab.get_by_role("radio", name="Files").or_(tab.get_by_role("button", name="Files")).click()
    with tab.expect_download() as saved:
        tab.get_by_role("button", name="Save").first.click()
    assert saved.value.path().read_bytes() == (made.folder / saved.value.suggested_filename).read_bytes()
