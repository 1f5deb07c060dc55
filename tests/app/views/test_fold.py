"""Long texts, folded: app/views/fold.py. What the browser makes of it is in browser/test_compare.py."""

from __future__ import annotations

import pytest

from app.views.fold import FOLDED_LINES, NARROW, WIDE, is_long
from tests.app.views.drawing import drawn


@pytest.mark.parametrize(
    ("text", "long"),
    [
        ("", False),
        ("line\n" * FOLDED_LINES, False),
        ("line\n" * (FOLDED_LINES + 1), True),
        ("x" * WIDE * FOLDED_LINES, True),
        ("x" * WIDE * (FOLDED_LINES - 1), False),
    ],
)
def test_what_is_long(text: str, long: bool) -> None:
    assert is_long(text, WIDE) is long


def test_a_column_is_full_sooner() -> None:
    text = "word " * 120
    assert (is_long(text, NARROW), is_long(text, WIDE)) == (True, False)


def test_a_short_text_is_one() -> None:
    assert drawn("fold.draw_text", "<b>").text[0].value == "<b>"


def test_a_long_text_is_folded_and_escaped() -> None:
    shown = drawn("fold.draw_text", "<b>line\n" * 40)
    body = shown.get("html")[0].proto.body
    assert body.count("&lt;b&gt;line\n") == 40
    assert "<b>" not in body
    assert "<summary>" in body
    assert not shown.text
