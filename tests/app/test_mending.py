"""Choosing fixes, looking at what they change, writing the copy: app/mending.py, over real commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.uploads import kept_files
from tests.app.waiting import press, texts
from tests.runs import write_rows

ROWS = [{"prompt": f"food {n}", "completion": f"the {n}th &amp; last"} for n in range(3)]


def page(report, words) -> None:  # type: ignore[no-untyped-def]
    """A page with what there is to mend."""
    import streamlit as st

    from app.mending import draw_mending

    draw_mending(report, words, "1", st.write)


def finding(fix: str) -> dict[str, Any]:
    return {"fix": fix, "title": "Odd *rows*", "count": 3}


@pytest.fixture
def app(root: Path) -> AppTest:
    source = str(write_rows(root / "rows.jsonl", ROWS))
    report = {"source": source, "findings": [finding("unescape-html"), finding("drop-duplicates")]}
    return AppTest.from_function(page, args=(report, ["data", "check", source]), default_timeout=60).run()


def test_another_choice_needs_another_look(app: AppTest, root: Path) -> None:
    press(app, "Show what would change")
    assert "3 rows changed" in texts(app)
    assert [each.label for each in app.button][-1] == "Write the mended copy"
    app.checkbox[1].uncheck().run()
    assert [each.label for each in app.button] == ["Show what would change"]
    app.checkbox[0].uncheck().run()
    assert app.button[0].disabled
    app.checkbox[1].check().run()
    press(app, "Show what would change")
    assert "These change nothing." in texts(app)
    assert kept_files(root) == []


def test_a_copy_is_written_once_however_often_one_presses(app: AppTest, root: Path) -> None:
    press(app, "Show what would change")
    press(press(app, "Write the mended copy"), "Write the mended copy")
    assert len(kept_files(root)) == 1
    assert "&amp;" not in kept_files(root)[0].read_text()


def test_what_goes_wrong_is_said_and_can_be_tried_again(app: AppTest, root: Path) -> None:
    press(app, "Show what would change")
    (root / "data").write_text("in the way")
    press(app, "Write the mended copy")
    assert app.error
    (root / "data").unlink()
    press(app, "Try again")
    assert len(kept_files(root)) == 1
