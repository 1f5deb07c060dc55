"""Rows that repeat one another: app/views/duplicate_list.py."""

from __future__ import annotations

from typing import Any

from streamlit.testing.v1 import AppTest

from tests.app.reading import unescaped
from tests.app.waiting import texts

NONE = {"groups": 0, "repeats": 0, "shown": []}


def page(found) -> None:  # type: ignore[no-untyped-def]
    """A page with the groups."""
    from app.views.duplicate_list import draw_duplicates

    draw_duplicates(found)


def shown(**found: Any) -> AppTest:
    return AppTest.from_function(
        page, args=({"rows": 2000, "exact": NONE, "near": NONE} | found,), default_timeout=30
    ).run()


def row(place: str, text: str) -> dict[str, Any]:
    return {"place": place, "record": {"messages": [{"role": "user", "content": text}]}}


def test_the_good_face() -> None:
    assert "No row repeats" in texts(shown())


def test_equal_rows_are_shown_once_and_near_ones_all() -> None:
    same = {"count": 7, "rows": [row("<b>r:1", "*one*"), row("r:2", "*one*")]}
    alike = {"count": 2, "rows": [row("r:3", "two"), row("r:4", "two!")]}
    app = shown(
        exact={"groups": 1, "repeats": 6, "shown": [same]}, near={"groups": 4, "repeats": 4, "shown": [alike]}
    )
    said = unescaped(texts(app))
    assert [each.value for each in app.text] == ["user: *one*", "user: two", "user: two!"]
    assert "<b>r:1, r:2, …" in said
    assert "r:3, r:4" in said
    assert "r:3, r:4, …" not in said
    assert "7 times" in said
    assert "2 alike" in said
    assert "Repeats among 2,000 rows: 6 word for word, 4 nearly." in said
    assert "… and 3 smaller groups." in said
