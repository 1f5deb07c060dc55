"""Choosing fixes, looking at what they change, writing the copy: app/mending.py, over real commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.uploads import kept_files
from tests.app.waiting import press, texts
from tests.runs import write_rows

ROWS = [{"prompt": f"food {n}", "completion": f"the {n}th &amp; last"} for n in range(3)]


def page(source, findings) -> None:  # type: ignore[no-untyped-def]
    """A page with what there is to mend."""
    import streamlit as st

    from app.mending import choose_fix, draw_mending

    fixes: dict[str, bool] = {}
    for fix in findings:
        choose_fix(fixes, source, {"fix": fix, "fix_is_chosen": fix != "drop-near-leaks"})
    draw_mending(source, fixes, ["data", "check", source], "1", st.write)


@pytest.fixture
def app(root: Path) -> AppTest:
    source = str(write_rows(root / "rows.jsonl", ROWS))
    fixes = ["unescape-html", "drop-duplicates", "unescape-html"]
    return AppTest.from_function(page, args=(source, fixes), default_timeout=60).run()


def test_a_fix_is_chosen_once_for_all_that_it_mends(app: AppTest) -> None:
    words = "Mend: turn HTML marks back into characters"
    assert [each.label for each in app.checkbox] == [words, "Mend: keep one of each"]
    assert f"{words}, as above" in texts(app)


def test_a_fix_that_may_take_away_what_is_meant_is_not_chosen_by_itself(root: Path) -> None:
    source = str(write_rows(root / "rows.jsonl", ROWS))
    app = AppTest.from_function(
        page, args=(source, ["drop-empty", "drop-near-leaks"]), default_timeout=60
    ).run()
    assert [each.value for each in app.checkbox] == [True, False]
    assert app.checkbox[1].help == "Look first at what it would change."


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
