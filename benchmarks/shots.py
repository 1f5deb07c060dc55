"""Screenshots of every page in both themes and three widths: ``python benchmarks/shots.py [OUT] [--only NAME]``.

The studio is real, and so are the folders it shows: a run in every state (tests/app/states.py).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.app.browser.served import ServedStudio, chromium, settled
from tests.app.states import Runs

WIDTHS = (390, 1024, 1440)
PAGES = ("data", "new_run", "queue", "compare", "playground", "export", "settings", "help")


def addresses(runs: Runs) -> dict[str, str]:
    """The name of each picture and the address that it shows."""
    made = {
        **{name: run.id for name, run in runs.in_every_state().items()},
        "held": runs.queued("held", hold=True).id,
        "second": runs.finished("lower rate", learning_rate=1e-4).id,
    }
    states = {f"run-{name}": f"run?run={run}" for name, run in made.items()}
    bodies = {
        f"run-{body.lower()}": f"run?run={made['running']}&show={body}"
        for body in ("Samples", "Machine", "Log", "Details")
    }
    compared = f"compare?runs={made['finished']}&runs={made['second']}"
    pages = {"home": "", "runs": "run", **{name: name for name in PAGES}, "compare-two": compared}
    failed = {"run-failed-log": f"run?run={made['failed']}&show=Log"}
    return pages | states | bodies | failed


def main() -> int:
    """Take the pictures; the number of them is printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=Path("shots"))
    parser.add_argument("--only", default="", help="only pictures whose name begins like this")
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    count, wide = 0, []
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder) / "runs")
        shown = {name: path for name, path in addresses(runs).items() if name.startswith(asked.only)}
        with ServedStudio(Path(folder)) as studio, ServedStudio(Path(empty)) as bare, chromium() as browser:
            sites = {name: f"{studio.url}/{path}" for name, path in shown.items()}
            sites |= {"home-empty": bare.url} if "home-empty".startswith(asked.only) else {}
            for theme in ("light", "dark"):
                for width in asked.widths:
                    page = browser.new_page(viewport={"width": width, "height": 1500}, color_scheme=theme)
                    for name, url in sites.items():
                        page.goto(url)
                        settled(page)
                        page.wait_for_timeout(400)
                        page.screenshot(path=asked.out / f"{name}-{theme}-{width}.png")
                        wide += [f"{name} at {width}"] * page.evaluate(OVERFLOWS)
                        count += 1
                    page.close()
        runs.close()
    print(f"{count} pictures in {asked.out}; wider than their window: {sorted(set(wide)) or 'none'}")
    return bool(wide)


OVERFLOWS = """(() => {
  const main = document.querySelector('[data-testid=stMain]') || document.documentElement;
  return main.scrollWidth > main.clientWidth + 1 || document.documentElement.scrollWidth > innerWidth + 1;
})()"""

if __name__ == "__main__":
    sys.exit(main())
