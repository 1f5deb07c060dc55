"""The studio's process stays light: no page, no view and no action brings torch along."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.states import Runs
from tests.runs import child_environment

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "app").rglob("*.py")
    if path.name not in {"__init__.py", "__main__.py", "main.py"} and path.parent.name != "pages"
)
SCRIPT = """
import json, sys
from streamlit.testing.v1 import AppTest
modules, main, pages, runs = json.loads(sys.argv[1])
for module in modules:
    __import__(module)
app = AppTest.from_file(main, default_timeout=60).run()
addresses = [(page, {}) for page in pages] + [("run", {"run": run, "show": show}) for run, show in runs]
for page, query in addresses:
    app.switch_page(f"pages/{page}.py")
    app.query_params.clear()
    app.query_params.update(query)
    app.run()
    assert not app.exception, (page, query, app.exception[0].message)
heavy = ("torch", "transformers", "peft", "datasets", "tensorflow", "pandas", "altair")
print("LOADED", [name for name in heavy if name in sys.modules])
"""


def ask(tmp_path: Path, script: str, runs: list[tuple[str, str]]) -> str:
    pages = [path.stem for path in (ROOT / "app" / "pages").glob("[a-z]*.py")]
    asked = json.dumps([MODULES, str(ROOT / "app" / "main.py"), pages, runs])
    child = subprocess.run(
        [sys.executable, "-c", script, asked],
        capture_output=True,
        text=True,
        env=child_environment(TUNESMITH_ROOT=str(tmp_path)),
        check=False,
        timeout=240,
        cwd=ROOT,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    return child.stdout


def test_w25_every_page_is_drawn_without_torch(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    made = runs.in_every_state()
    shown = [(run.id, "Log") for run in made.values()]
    shown += [(made["running"].id, show) for show in ("Curves", "Samples", "Machine", "Details")]
    assert ask(tmp_path, SCRIPT, shown).splitlines()[-1] == "LOADED []"
    runs.close()


def test_the_watch_would_notice(tmp_path: Path) -> None:
    script = SCRIPT.replace("import json, sys", "import json, sys; sys.modules['torch'] = json").replace(
        "for module in modules", "for module in []"
    )
    assert "torch" in ask(tmp_path, script, []).splitlines()[-1]


@pytest.mark.parametrize("module", ["app.studio", "app.views.charts", "app.run_buttons"])
def test_the_list_above_sees_the_house(module: str) -> None:
    assert module in MODULES
