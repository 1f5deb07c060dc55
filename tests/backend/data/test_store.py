import pytest

from backend.data.records import Row
from backend.data.store import RowFile, write_rows
from backend.errors import DataError
from tests.backend.data.rows import assistant, chat, pair, user

CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
ROWS = [
    pair("007", "é€😀 \u2028 true", place="f:1"),
    chat(user("a"), assistant("b", trained=False, tool_calls=[CALL]), tools='[{"x": 1}]'),
    Row("f:3", text=" plain\n"),
    Row("f:4", text=""),
    chat(user("p"), chosen=(assistant("c"),), rejected=(assistant("r"),)),
    chat(user("p"), assistant("a"), label=False, group="g"),
    Row("f:7", segments=(("a", False), ("b", True))),
    Row("f:8", input_ids=(1, 2, 3), labels=(-100, 2, 3)),
]


def test_rows_come_back_as_they_were(tmp_path):
    assert write_rows(iter(ROWS), tmp_path / "r.arrow") == len(ROWS)
    with RowFile(tmp_path / "r.arrow") as rows:
        assert list(rows) == ROWS
        assert [rows[number] for number in range(len(rows))] == ROWS
        assert (rows[-1], rows[2:4]) == (ROWS[-1], ROWS[2:4])


def test_rows_are_found_across_batches(tmp_path):
    write_rows((pair(str(number), "a", f"f:{number}") for number in range(12_000)), tmp_path / "r.arrow")
    with RowFile(tmp_path / "r.arrow") as rows:
        assert len(rows) == 12_000
        for number in (0, 4_999, 5_000, 10_000, 11_999):
            assert rows[number].place == f"f:{number}"
        with pytest.raises(IndexError):
            rows[12_000]


def test_no_rows_are_no_rows(tmp_path):
    assert write_rows([], tmp_path / "r.arrow") == 0
    with RowFile(tmp_path / "r.arrow") as rows:
        assert list(rows) == []


def test_a_write_that_breaks_off_leaves_nothing(tmp_path):
    def rows():
        yield ROWS[0]
        raise DataError("stop", remedy="", code="x")

    with pytest.raises(DataError):
        write_rows(rows(), tmp_path / "r.arrow")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_a_data_error(tmp_path):
    (tmp_path / "r.arrow").write_bytes(b"ARROW1 and nothing more")
    with pytest.raises(DataError, match=r"r\.arrow is damaged"):
        RowFile(tmp_path / "r.arrow")


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        write_rows(ROWS, tmp_path / "no" / "r.arrow")
