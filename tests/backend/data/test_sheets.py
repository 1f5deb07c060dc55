import datetime
import io
import re
import sys
import zipfile

import openpyxl
import pytest

from backend.data import archives
from backend.data.archives import Allowance
from backend.data.records import Record, Rejected, Skipped
from backend.data.sheets import is_workbook, read_workbook
from backend.errors import DataError


def workbook(*lines, title="rows"):
    book = openpyxl.Workbook()
    book.active.title = title
    for line in lines:
        book.active.append(line)
    raw = io.BytesIO()
    book.save(raw)
    return raw.getvalue()


def read_all(data, sheet=None):
    return list(read_workbook(io.BytesIO(data), "b.xlsx", sheet, Allowance(len(data))))


def test_texts_stay_and_values_are_spelled_out():
    data = workbook(
        ["a", "b", "c", "d"], ["007", 7, 1.5, True], [" NA ", None, datetime.date(2020, 1, 2), "true"]
    )
    assert read_all(data) == [
        Record("b.xlsx:2", {"a": "007", "b": "7", "c": "1.5", "d": "true"}),
        Record("b.xlsx:3", {"a": " NA ", "b": None, "c": "2020-01-02T00:00:00", "d": "true"}),
    ]


def test_empty_rows_are_none_and_rows_wider_than_the_header_are_rejected():
    good, wide = read_all(workbook(["a"], [], ["x"], ["y", "more"]))
    assert good == Record("b.xlsx:3", {"a": "x"})
    assert wide == Rejected("b.xlsx:4", "the row has more cells than the header's 1", "more")


def test_a_title_above_the_names_is_named_and_passed_over():
    told, row = read_all(workbook(["Questions 2026"], [], ["question", "answer"], ["q", "a"]))
    assert told == Skipped("b.xlsx:1", "a title, 'Questions 2026'")
    assert row == Record("b.xlsx:4", {"question": "q", "answer": "a"})


def test_other_sheets_are_named_where_none_was_chosen():
    book = openpyxl.Workbook()
    book.active.append(["a"])
    book.create_sheet("more")
    raw = io.BytesIO()
    book.save(raw)
    assert read_all(raw.getvalue()) == [
        Skipped("b.xlsx/more", "another sheet; data.sheet names the one to read")
    ]
    assert read_all(raw.getvalue(), "Sheet") == []


def test_a_sheet_can_be_named():
    book = openpyxl.Workbook()
    other = book.create_sheet("second")
    other.append(["a"])
    other.append(["x"])
    raw = io.BytesIO()
    book.save(raw)
    assert read_all(raw.getvalue(), "second") == [Record("b.xlsx:2", {"a": "x"})]
    with pytest.raises(DataError) as caught:
        read_all(raw.getvalue(), "third")
    assert caught.value.remedy == "Its sheets are: Sheet, second."


def test_a_column_named_twice_is_an_error():
    with pytest.raises(DataError, match="names the column 'a' twice"):
        read_all(workbook(["a", "a"], ["1", "2"]))


def test_a_damaged_workbook_is_an_error():
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("xl/workbook.xml", "<broken")
    with pytest.raises(DataError, match="not a readable workbook"):
        read_all(raw.getvalue())


def test_a_workbook_that_swells_is_stopped(monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 100)
    data = workbook(["a"], ["x"])
    with pytest.raises(DataError, match="unpacks to more than"):
        list(read_workbook(io.BytesIO(data), "b.xlsx", None, Allowance(1)))


def test_without_openpyxl_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DataError) as caught:
        read_all(b"")
    assert "pip install openpyxl" in caught.value.remedy


def test_is_workbook_tells_workbooks_from_other_archives():
    with zipfile.ZipFile(io.BytesIO(workbook(["a"]))) as archive:
        assert is_workbook(archive)
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("a.csv", "x")
        assert not is_workbook(archive)


def test_the_first_sheet_that_is_not_hidden_is_read():
    book = openpyxl.Workbook()
    book.active.title = "old"
    book.active.sheet_state = "hidden"
    book.active.append(["a"])
    for title, state in (("secret", "veryHidden"), ("data", "visible"), ("more", "visible")):
        sheet = book.create_sheet(title)
        sheet.sheet_state = state
        sheet.append(["a"])
        sheet.append([title])
    book.active = 2
    raw = io.BytesIO()
    book.save(raw)
    *aside, row = read_all(raw.getvalue())
    assert row == Record("b.xlsx:2", {"a": "data"})
    assert {each.place: each.reason.partition(";")[0] for each in aside} == {
        "b.xlsx/old": "a hidden sheet",
        "b.xlsx/secret": "a hidden sheet",
        "b.xlsx/more": "another sheet",
    }
    assert read_all(raw.getvalue(), "secret") == [Record("b.xlsx:2", {"a": "secret"})]


def test_cells_far_away_cost_their_own_row_only():
    book = openpyxl.Workbook()
    for line in (["prompt", "completion"], ["q", "a"]):
        book.active.append(line)
    book.active.cell(1, 5_000).value = "x"
    book.active.cell(3_000, 2_000).value = "y"
    raw = io.BytesIO()
    book.save(raw)
    told, row, far = read_all(raw.getvalue())
    assert told == Skipped("b.xlsx:1", "far to the right of the header: 'x'")
    assert row == Record("b.xlsx:2", {"prompt": "q", "completion": "a"})
    assert far == Rejected("b.xlsx:3000", "the row has more cells than the header's 2", "y")


def test_a_size_that_a_sheet_only_claims_is_not_believed():
    data = workbook(["prompt"], ["q"])
    claimed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(claimed, "w") as new:
        for name in old.namelist():
            content = re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1:XFD1048576"', old.read(name))
            new.writestr(name, content)
    assert read_all(claimed.getvalue()) == [Record("b.xlsx:2", {"prompt": "q"})]


def test_a_row_over_the_limit_is_rejected():
    data = workbook(["a", "b"], ["x" * 60, "y" * 60], ["x", "y"])
    long, row = read_workbook(io.BytesIO(data), "b.xlsx", None, Allowance(len(data)), 100)
    assert long == Rejected("b.xlsx:2", "the row has more than 100 characters")
    assert row.cells == {"a": "x", "b": "y"}
