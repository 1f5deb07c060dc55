"""Findings and repairs: app/views/problem_list.py."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.views import problem_list
from app.views.problem_list import record_text
from backend.data.fixes import FIXES
from tests.app.reading import unescaped
from tests.app.waiting import texts


def page(what, value) -> None:  # type: ignore[no-untyped-def]
    """A page with one drawing."""
    from app.views import problem_list

    more = [lambda found: problem_list.st.caption(f"fix {found['fix']}")] if what == "draw_findings" else []
    getattr(problem_list, what)(value, *more)


def shown(what: str, value: object) -> AppTest:
    return AppTest.from_function(page, args=(what, value), default_timeout=30).run()


def finding(**changes: Any) -> dict[str, Any]:
    return {
        "check": "duplicates",
        "title": "Rows stand more than once",
        "level": "block",
        "count": 2,
        "share": 0.5,
        "harm": "It learns by heart.",
        "examples": [{"place": "<b>rows.jsonl:2", "detail": "*same* as 1"}],
        "fix": "drop-duplicates",
        "fix_is_chosen": True,
    } | changes


def fixed(differences: list[dict[str, Any]], changed: int) -> dict[str, Any]:
    """What the command says of a repair that also left 7 unreadable rows out."""
    return {"differences": differences, "changes": {"drop-rejected": [0, 7], "drop-empty": [1, changed - 1]}}


def report(*findings: dict[str, Any]) -> dict[str, Any]:
    return {"findings": findings, "not_run": [["too-long", "no model was given"]]}


def test_a_finding_with_everything_one_needs_to_act() -> None:
    said = unescaped(texts(shown("draw_findings", report(finding()))))
    for words in ("Must be fixed", "Rows stand more than once", "2 rows, 50%", "It learns by heart."):
        assert words in said
    assert "<b>rows.jsonl:2" in said
    assert "*same* as 1" in said
    assert "fix drop-duplicates" in said
    assert "too long: no model was given" in said


@pytest.mark.parametrize(("level", "words"), [("block", "Must be"), ("warn", "Look at"), ("info", "Note")])
def test_every_level_has_its_face_in_words(level: str, words: str) -> None:
    assert words in texts(shown("draw_findings", report(finding(level=level, share=None, fix=None))))


def test_the_good_face() -> None:
    assert "No problems found" in texts(shown("draw_findings", report()))


def test_changes_are_shown_before_and_after_and_secrets_are_not() -> None:
    before = {"messages": [{"role": "user", "content": "<i>a"}, {"role": "assistant", "content": "b"}]}
    changes = [
        {"fix": "repair-text", "place": "r:1", "before": before, "after": {"text": "c"}},
        {"fix": "drop-empty", "place": "r:2", "before": {"text": "x"}, "after": None},
        {"fix": "redact-secrets", "place": "r:3", "before": None, "after": {"text": "…"}},
    ]
    app = shown("draw_changes", fixed(changes, 3))
    said = [each.value for each in app.text]
    assert said[:2] == ["− user: <i>a\nassistant: b", '+ {"text": "c"}']
    assert said[3:5] == ["left out", "− (not shown)"]
    assert "more" not in texts(app)


def test_many_changes_are_cut_and_say_so() -> None:
    change = {"fix": "drop-empty", "place": "r:1", "before": {"text": "x"}, "after": None}
    assert "and 1,003 more" in texts(shown("draw_changes", fixed([change] * 5, 1008)))


def test_every_fix_has_its_words() -> None:
    assert set(problem_list.FIXES) == set(FIXES)


def test_a_row_for_reading() -> None:
    assert record_text({"text": "é"}) == '{"text": "é"}'
