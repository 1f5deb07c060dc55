"""Screenshots of every page in both themes and three widths: ``python benchmarks/shots.py [OUT] [--only NAME]``.

The studio is real, and so are the folders it shows (tests/app/browser/furnished.py).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from playwright.sync_api import Page

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.app.browser.furnished import Furnished, furnish
from tests.app.browser.served import ServedStudio, chromium, settled

WIDTHS = (390, 1024, 1440)
PAGES = ("data", "new_run", "queue", "compare", "playground", "export", "settings", "help")
Act = Callable[[Page], object]


def addresses(shown: Furnished) -> dict[str, str]:
    """The name of each picture and the address that it shows."""
    made = {name: run.id for name, run in shown.made.items()}
    states = {f"run-{name}": f"run?run={run}" for name, run in made.items()}
    bodies = {
        f"run-{body.lower()}": f"run?run={made['running']}&show={body}"
        for body in ("Samples", "Machine", "Log", "Details")
    }
    compared = f"compare?runs={made['finished']}&runs={made['second']}"
    pages = {"home": "", "runs": "run", **{name: name for name in PAGES}, "compare-two": compared}
    return pages | states | bodies | {"run-failed-log": f"run?run={made['failed']}&show=Log"}


def acts(rows: Path) -> dict[str, tuple[str, Act]]:
    """The name of each picture of a page at work: its address, and what is done there first."""
    return {
        "data-problems": ("data", partial(give, rows, "Problems")),
        "data-changes": ("data", partial(look_at_changes, rows)),
        **{f"data-{view.lower()}": ("data", partial(give, rows, view)) for view in ("Rows", "Duplicates")},
        "new_run-expert": ("new_run", lambda page: page.get_by_text("Expert", exact=True).click()),
        "playground-asked": ("playground", ask),
        "run-question": ("run-finished", lambda page: page.get_by_role("button", name="Delete").click()),
    }


def give(rows: Path, view: str, page: Page) -> None:
    page.locator("input[type=file]").set_input_files(rows)
    page.get_by_text(view, exact=True).click()
    page.wait_for_function("!document.querySelector('[data-testid=stProgress]')")


def look_at_changes(rows: Path, page: Page) -> None:
    page.locator("input[type=file]").set_input_files(rows)
    page.get_by_role("button", name="Show what would change").click()
    page.get_by_role("button", name="Write the mended copy").scroll_into_view_if_needed()


def ask(page: Page) -> None:
    page.get_by_placeholder("Say something").fill("Which section? pork")
    page.get_by_placeholder("Say something").press("Enter")
    page.get_by_role("button", name="Begin anew").wait_for()


def main() -> int:
    """Take the pictures; the number of them is printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=Path("shots"))
    parser.add_argument("--only", default="", help="only pictures whose name begins like this")
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    count, wide = 0, []
    with (
        tempfile.TemporaryDirectory() as empty,
        tempfile.TemporaryDirectory() as folder,
        furnish(Path(folder) / "studio", Path(folder) / "foods.jsonl") as shown,
        ServedStudio(Path(empty)) as bare,
        chromium() as browser,
    ):
        known = addresses(shown)
        sites: dict[str, tuple[str, Act]] = {name: (path, settled) for name, path in known.items()}
        sites |= {name: (known.get(path, path), act) for name, (path, act) in acts(shown.rows).items()}
        urls = {name: (f"{shown.studio.url}/{path}", act) for name, (path, act) in sites.items()}
        urls |= {f"{name or 'home'}-empty": (f"{bare.url}/{name}", settled) for name in ("", "playground")}
        for theme in ("light", "dark"):
            for width in asked.widths:
                page = browser.new_page(viewport={"width": width, "height": 1500}, color_scheme=theme)
                for name, (url, act) in urls.items():
                    if not name.startswith(asked.only):
                        continue
                    page.goto(url)
                    act(settled(page))
                    settled(page).wait_for_timeout(400)
                    page.screenshot(path=asked.out / f"{name}-{theme}-{width}.png")
                    wide += [f"{name} at {width}"] * page.evaluate(OVERFLOWS)
                    count += 1
                page.close()
    print(f"{count} pictures in {asked.out}; wider than their window: {sorted(set(wide)) or 'none'}")
    return bool(wide)


OVERFLOWS = """(() => {
  const main = document.querySelector('[data-testid=stMain]') || document.documentElement;
  return main.scrollWidth > main.clientWidth + 1 || document.documentElement.scrollWidth > innerWidth + 1;
})()"""

if __name__ == "__main__":
    sys.exit(main())
