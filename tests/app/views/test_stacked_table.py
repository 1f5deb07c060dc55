"""Tables that are read whole: app/views/stacked_table.py. On a narrow screen: browser/test_compare.py."""

from __future__ import annotations

from tests.app.reading import stacked
from tests.app.views.drawing import drawn


def test_rows_as_they_are() -> None:
    rows = [{"run": "one & <b>", "loss": "0.5"}, {"run": "two", "loss": "–"}]
    assert stacked(drawn("stacked_table.draw_stacked_table", rows)) == [rows]


def test_names_and_cells_are_escaped() -> None:
    (table,) = drawn("stacked_table.draw_stacked_table", [{"run": "<i>", '"<img>': '"<script>'}]).get("html")
    assert 'data-name="&quot;&lt;img&gt;"><div><div class="ts-text">&quot;&lt;script&gt;' in table.proto.body
    assert "<i>" not in table.proto.body
    assert "<img>" not in table.proto.body


def test_a_long_cell_is_folded_and_a_short_one_is_not() -> None:
    rows = [{"run": "one", "answer": "word " * 500}, {"run": "two", "answer": "word"}]
    (table,) = drawn("stacked_table.draw_stacked_table", rows).get("html")
    assert table.proto.body.count("Show all") == 1
