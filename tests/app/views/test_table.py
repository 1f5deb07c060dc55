"""Tables: app/views/table.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.views.table import arrow_table
from tests.app.reading import frames
from tests.app.views.drawing import drawn


def test_rows_as_they_are() -> None:
    rows = [{"step": 1, "answer": "<b>"}, {"step": 2, "answer": ""}]
    assert frames(drawn("table.draw_table", rows)) == [rows]


def test_no_rows_make_an_empty_table() -> None:
    assert frames(drawn("table.draw_table", [])) == [[]]


def test_a_name_that_only_a_later_row_has_is_a_column() -> None:
    (found,) = frames(drawn("table.draw_table", [{"a": "1"}, {"b": "2"}]))
    assert found == [{"a": "1", "b": ""}, {"a": "", "b": "2"}]


@given(st.lists(st.integers(1 - 2**63, 2**63 - 1)) | st.lists(st.floats()) | st.lists(st.text()))
def test_values_of_one_kind_come_as_they_are(values: list[object]) -> None:
    assert repr(arrow_table({"a": values})["a"].to_pylist()) == repr(values)


@pytest.mark.parametrize("odd", [10**30, "many", 0.5, True, ["many"], "\N{GRINNING FACE}"])
def test_a_column_of_several_kinds_is_text(odd: object) -> None:
    assert arrow_table({"a": [1, odd, "ä"]})["a"].to_pylist() == ["1", str(odd), "ä"]


def test_whole_numbers_among_others_are_numbers() -> None:
    assert arrow_table({"a": [1, 0.5]})["a"].to_pylist() == [1.0, 0.5]


def test_whole_numbers_beyond_64_bits_are_text() -> None:
    assert arrow_table({"a": [1, 10**30]})["a"].to_pylist() == ["1", str(10**30)]
