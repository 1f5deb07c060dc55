import tempfile

import numpy as np
import pytest

from backend.data import store
from backend.data.records import Row
from backend.data.store import RowFile, rows_at, spill_to_disk
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


@pytest.fixture
def on_disk(monkeypatch):
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(store, "BATCH_BYTES", 2 * store.ROW_BYTES)


def test_few_rows_stay_in_memory():
    assert spill_to_disk(iter(ROWS)) == ROWS
    assert spill_to_disk([]) == []


@pytest.mark.usefixtures("on_disk")
def test_rows_come_back_as_they_were():
    rows = spill_to_disk(iter(ROWS))
    assert isinstance(rows, RowFile)
    assert list(rows) == ROWS
    assert [rows[number] for number in range(len(rows))] == ROWS
    assert rows[-1] == ROWS[-1]
    with pytest.raises(IndexError):
        rows[len(ROWS)]


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize(
    "part", [slice(2, 4), slice(None, None, -1), slice(1, None, 3), slice(9, None), slice(3)]
)
def test_slices_are_those_of_a_list_and_may_be_sliced_again(part):
    rows = spill_to_disk(iter(ROWS))
    assert list(rows[part]) == ROWS[part]
    assert len(rows[part]) == len(ROWS[part])
    assert list(rows[part][1:]) == ROWS[part][1:]


@pytest.mark.usefixtures("on_disk")
def test_rows_are_chosen_by_number_in_any_order():
    numbers = np.array([7, 0, 1, 1, 5, 0])
    wanted = [ROWS[number] for number in numbers]
    assert rows_at(ROWS, numbers) == wanted
    assert list(rows_at(spill_to_disk(iter(ROWS)), numbers)) == wanted
    assert rows_at(spill_to_disk(iter(ROWS)), numbers)[4] == ROWS[5]


def test_the_file_has_no_name_and_few_rows_make_none(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 10 * store.ROW_BYTES)
    rows = spill_to_disk(pair(str(number), "a", f"f:{number}") for number in range(5_000))
    assert isinstance(rows, RowFile)
    assert [rows[number].place for number in (0, 2_500, 4_999)] == ["f:0", "f:2500", "f:4999"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("on_disk")
def test_what_the_rows_raise_comes_through():
    def rows():
        yield from ROWS
        raise DataError("stop", remedy="", code="x")

    with pytest.raises(DataError, match="stop"):
        spill_to_disk(rows())


@pytest.mark.usefixtures("on_disk")
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no"))
    with pytest.raises(DataError, match="cannot be written"):
        spill_to_disk(iter(ROWS))
