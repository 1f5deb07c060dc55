from dataclasses import replace

import pytest

from backend.data.exact_json import encode
from backend.data.load import load_rows
from backend.data.write import row_record
from tests.backend.data.test_store import ROWS


@pytest.mark.parametrize("row", [row for row in ROWS if row.text != ""], ids=lambda row: row.place)
def test_a_written_row_reads_back_as_it_was(tmp_path, row):
    (tmp_path / "rows.jsonl").write_text(encode(row_record(row)), encoding="utf-8")
    loaded = load_rows(tmp_path / "rows.jsonl").rows[0]
    assert replace(loaded, place=row.place, group=row.group) == row


def test_row_record_has_only_the_fields_that_are_set():
    assert row_record(ROWS[2]) == {"text": " plain\n"}
    assert row_record(ROWS[4])["prompt"] == [{"role": "user", "content": "p"}]
    assert row_record(ROWS[5])["group"] == "g"
