"""Somebody tries to break the studio: HTML and scripts everywhere, ``../``, huge values. Only text changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.app.browser.furnished import ROWS, Furnished
from tests.app.browser.served import PATIENCE_MS, settled
from tests.app.test_hostile import EVIL

HUGE = "9" * 400
ALIVE = "document.querySelectorAll('img[src=x], [onerror], a[href^=javascript], [data-testid=stException]').length"
OUTSIDE = (
    "../../../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "/etc/passwd",
    ".",
    "",
    "x" * 5000,
    quote(EVIL),
)


class Attacked:
    """A tab in which whatever a script could do is noticed."""

    def __init__(self, page: Page, furnished: Furnished) -> None:
        self.page, self.furnished = page, furnished
        self.alerts: list[str] = []
        self.hosts: set[str | None] = set()
        page.set_default_timeout(PATIENCE_MS)
        page.on("dialog", lambda dialog: (self.alerts.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname))

    def open(self, address: str) -> Page:
        self.page.goto(f"{self.furnished.studio.url}/{address}")
        return self.unmoved()

    def unmoved(self) -> Page:
        """The page, in which nothing has come to life."""
        settled(self.page)
        assert self.page.evaluate(ALIVE) == 0
        assert self.page.title().endswith(("Tunesmith", *TITLES))
        assert self.alerts == []
        assert self.hosts <= {"127.0.0.1", None, ""}
        return self.page


TITLES = ("Home", "Data", "New run", "Runs", "Queue", "Compare", "Playground", "Export", "Settings", "Help")


@pytest.fixture(scope="module")
def attacked(browser: Browser, furnished: Furnished) -> Iterator[Attacked]:
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    yield Attacked(page, furnished)
    page.close()


@pytest.fixture(autouse=True)
def _nothing_is_written_elsewhere(furnished: Furnished) -> Iterator[None]:
    root = furnished.studio.root
    before = everything(root)
    yield
    ours = {root / "data", root / "drafts"}
    assert [path for path in everything(root) - before if not ours & {path, *path.parents}] == []


def everything(root: Path) -> set[Path]:
    """All files and folders in and around the studio's, but for the locks and lists beside its runs."""
    return set(root.parent.rglob("*")) - set(root.glob("runs/.*"))


def test_a_run_in_which_everything_is_hostile(attacked: Attacked) -> None:
    run = quote(attacked.furnished.made["hostile"].id)
    for body in ("Curves", "Samples", "Log", "Details"):
        page = attacked.open(f"run?run={run}&show={body}")
    expect(page.get_by_text(EVIL[:28]).first).to_be_visible()
    for address in ("", "run", f"compare?runs={run}", "queue", "export"):
        attacked.open(address)


def test_addresses_that_lead_elsewhere(attacked: Attacked) -> None:
    for outside in OUTSIDE:
        page = attacked.open(f"run?run={outside}")
        assert "root:" not in page.get_by_role("main").inner_text()
    for name in ("compare?runs=", "export?run=", "playground?run="):
        attacked.open(f"{name}{OUTSIDE[0]}&{name}{OUTSIDE[-1]}")


def test_what_is_typed_into_new_run(attacked: Attacked) -> None:
    page = attacked.open("new_run")
    for label, text in (
        ("Name", EVIL),
        ("Learning rate", HUGE),
        ("Epochs", EVIL),
        ("Held-out data", "../../etc/passwd"),
    ):
        field = page.get_by_role("textbox", name=label, exact=True)
        field.fill(text)
        field.press("Enter")
        attacked.unmoved()
    whole = page.get_by_label("LoRA rank", exact=True)
    whole.fill(HUGE)
    whole.press("Enter")
    expect(attacked.unmoved().get_by_role("button", name="Start now")).to_be_disabled()
    assert page.get_by_role("alert").count() >= 2


def test_a_file_with_a_hostile_name_and_hostile_rows(attacked: Attacked, furnished: Furnished) -> None:
    page = attacked.open("data")
    name = "../../<img src=x onerror=alert(1)>.jsonl"
    content = furnished.rows.read_bytes()
    page.locator("input[type=file]").set_input_files(
        {"name": name, "mimeType": "application/jsonl", "buffer": content}
    )
    page.get_by_role("button", name="Show what would change").click()
    page.get_by_role("button", name="Write the mended copy").wait_for()
    attacked.unmoved()
    for view in ("Duplicates", "Rows"):
        page.get_by_text(view, exact=True).click()
        attacked.unmoved()
    search = page.get_by_role("textbox", name="Search")
    search.fill("salt &amp;")
    search.press("Enter")
    expect(page.get_by_text(f"1 of {len(ROWS)} rows")).to_be_visible()
    search.fill(EVIL + HUGE)
    search.press("Enter")
    expect(page.get_by_text("No matching row.")).to_be_visible()
    attacked.unmoved()
    kept = [path for path in furnished.studio.root.glob("data/*/*.jsonl") if path.read_bytes() == content]
    assert len(kept) == 1


def test_an_answer_that_is_hostile(attacked: Attacked) -> None:
    page = attacked.open("playground")
    page.get_by_placeholder("Say something").fill(EVIL)
    page.get_by_placeholder("Say something").press("Enter")
    expect(page.get_by_test_id("stChatMessage")).to_have_count(2)
    expect(page.get_by_test_id("stChatMessage").last).to_contain_text(EVIL)
    attacked.unmoved()
    for way, button in (("Side by side", "Ask both"), ("Tokens", "Look")):
        page.get_by_text(way, exact=True).click()
        page.get_by_role("button", name=button).wait_for()
        prompt = page.get_by_role("textbox", name="Prompt")
        prompt.fill(EVIL)
        prompt.press("Control+Enter")
        page.get_by_role("button", name=button).click()
        expect(page.locator(".ts-sure").first).to_be_visible()
        attacked.unmoved()
