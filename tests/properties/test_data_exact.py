"""The byte-exact law: every text cell arrives as the text it is, out of every container."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.data.records import Record, Skipped
from backend.data.sources import read
from tests.backend.data.containers import CONTAINERS, scratch

TRICKY = (
    "007",
    "1.10",
    "true",
    "null",
    "NaN",
    "2020-01-02",
    " NA ",
    '{"k":1}',
    "[]",
    "=1+1",
    "'",
    '"',
    "",
    "-0",
    "1e5",
)
CHARACTERS = st.characters(codec="utf-8")
SHEET_CHARACTERS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn"))


def tables(characters):
    texts = st.one_of(st.sampled_from(TRICKY), st.text(characters, max_size=12))
    row = st.tuples(st.text(characters, min_size=1, max_size=12).filter(str.strip), texts)
    return st.lists(row, min_size=1, max_size=6).map(
        lambda rows: [{"prompt": prompt, "completion": answer} for prompt, answer in rows]
    )


def check(name, rows):
    with scratch() as folder:
        path = CONTAINERS[name](rows, Path(folder) / name)
        items = [item for item in read(path) if not isinstance(item, Skipped)]
    assert all(isinstance(item, Record) for item in items), items
    assert [dict(item.cells) for item in items] == rows


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name != "rows.xlsx"])
@settings(max_examples=40, deadline=None)
@given(rows=tables(CHARACTERS))
def test_every_cell_is_the_text_given(name, rows):
    check(name, rows)


@settings(max_examples=20, deadline=None)
@given(rows=tables(SHEET_CHARACTERS))
def test_every_cell_of_a_workbook_is_the_text_given(rows):
    check("rows.xlsx", [{key: value or "x" for key, value in row.items()} for row in rows])
