"""HTML, Markdown and huge values in names, notes, data and answers change nothing but the text that is shown."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from backend.manager.queue_manager import QueueManager
from backend.run.folder import RunDir
from tests.app.conftest import OpenPage
from tests.app.reading import unescaped
from tests.app.states import Runs

APP = sorted((Path(__file__).parents[2] / "app").rglob("*.py"))
EVIL = (
    "<img src=x onerror=alert(1)> [x](javascript:alert(1)) ![](http://192.0.2.1/i.png) :red[x] $y$ `z` **b**"
)
ESCAPES = {
    "token_view.py",  # these draw tokens, cells and long texts; their own tests hold that they escape them
    "chat.py",
    "fold.py",
    "stacked_table.py",
    "main.py",  # a rule of style and nothing of anybody's
}
BODIES = ["Curves", "Samples", "Machine", "Log", "Details"]


def hostile_run(runs: Runs) -> RunDir:
    """A failed run in which whatever can be text is hostile."""
    run = runs.failed()
    run.labels_file.write_text(json.dumps({"name": EVIL[:100], "tags": [EVIL], "note": EVIL}), "utf-8")
    outcome = json.loads(run.outcome_file.read_text("utf-8"))
    run.outcome_file.write_text(json.dumps(outcome | {"message": EVIL, "remedy": EVIL}), "utf-8")
    run.train_log.write_text(f"\x1b[31m{EVIL}\x00\n" * 50 + "x" * 100_000 + "\n", "utf-8")
    with run.samples_writer() as samples:
        samples.append(
            {"step": 5, "row": EVIL, "prompt": EVIL * 500, "expected": EVIL, "generated": EVIL * 50}
        )
    with run.flight_writer() as flight:
        flight.append({"step": 13, "loss": 1e308, "grad_norm": 1e-308, "learning_rate": 1.0, "rows": [EVIL]})
    with run.metrics_writer() as metrics:
        metrics.append(
            {"kind": "train", "step": 10**12, "total_steps": 10**12, "train/loss": 1e300, "seconds": 1e9}
        )
    return run


@pytest.fixture
def evil(runs: Runs) -> RunDir:
    """A run in which whatever can be text is hostile."""
    return hostile_run(runs)


def markdown_of(app: AppTest) -> list[str]:
    """Everything that the browser will read as Markdown."""
    kinds = ("markdown", "caption", "title", "header", "error", "warning", "info", "success")
    found = [str(one.value) for kind in kinds for one in app.get(kind)]
    return found + [one.proto.label for kind in ("page_link", "button", "metric") for one in app.get(kind)]


ALIVE = re.compile(r"(?<!\\)(?:<img|\]\(javascript|!\[|:red\[|\$y|`z|\*\*b)")


def assert_only_shown(app: AppTest) -> None:
    assert [text for text in markdown_of(app) if ALIVE.search(text)] == []


@pytest.mark.parametrize("show", BODIES)
def test_the_page_of_a_hostile_run(open_page: OpenPage, evil: RunDir, show: str) -> None:
    page = open_page("run", run=evil.id, show=show)
    assert_only_shown(page)
    assert "<img src=x" in unescaped(page.title[0].value)


@pytest.mark.parametrize("name", ["home", "run", "compare"])
def test_pages_that_list_it(open_page: OpenPage, evil: RunDir, name: str) -> None:
    assert_only_shown(open_page(name))


def test_the_queue(open_page: OpenPage, runs: Runs) -> None:
    run = runs.queued()
    QueueManager(run.path.parent).set_slots("default", 0)  # else the page starts it
    run.labels_file.write_text(json.dumps({"name": EVIL[:100]}), "utf-8")
    page = open_page("queue")
    assert_only_shown(page)
    assert any("<img src=x" in unescaped(text) for text in markdown_of(page))


def test_the_question_before_deleting(open_page: OpenPage, evil: RunDir) -> None:
    page = open_page("run", run=evil.id)
    page.button(key="delete").click().run()
    assert_only_shown(page)


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]


def test_no_room_of_the_studio_lets_html_in() -> None:
    """``unsafe_allow_html`` is nowhere, and ``st.html`` only where what is drawn is escaped."""
    made = [(path.name, call) for path in APP for call in calls(path)]
    words = {word.arg for _, call in made for word in call.keywords}
    drawn = {(name, ast.unparse(call.func)) for name, call in made}
    assert not words & {"unsafe_allow_html", "unsafe_allow_javascript"}
    assert {name for name, function in drawn if function == "st.html"} <= ESCAPES
    assert not {function for _, function in drawn} & {"components.html", "st.iframe", "st.components.v1.html"}
    assert ("run_buttons.py", "st.button") in drawn
