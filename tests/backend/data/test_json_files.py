import io
import json

import pytest

from backend.data.json_files import read_json, read_lines
from backend.data.records import Record, Rejected
from backend.errors import DataError

ROWS = [{"text": "a"}, {"text": "b\nc"}, {"text": "{"}]


def read_all(text, *, by_line=False, limit=1_000_000):
    return list(read_json(io.StringIO(text, newline="\n"), text[:65_536], "f.json", limit, by_line=by_line))


def cells(items):
    return [item.cells for item in items]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=4),
        "\n".join(json.dumps(row) for row in ROWS),
        "\r\n".join(json.dumps(row) for row in ROWS) + "\r\n",
        "".join(json.dumps(row) for row in ROWS),
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        ",\n".join(json.dumps(row, indent=2) for row in ROWS),
        json.dumps({"data": ROWS}),
        json.dumps({"data": ROWS, "note": {"x": [1]}}, indent=1),
        json.dumps({"version": "1", "rows": ROWS}),
        "\n\n" + json.dumps({"version": "1", "rows": ROWS}, indent=1),
    ],
)
def test_every_arrangement_gives_the_same_rows(text):
    assert cells(read_all(text)) == ROWS


def test_one_object_is_one_row():
    assert read_all('{"text": "a"}') == [Record("f.json:1", {"text": "a"})]
    assert read_all('{\n "text": "a"\n}') == [Record("f.json:1", {"text": "a"})]


def test_a_field_called_data_in_every_row_is_not_unwrapped():
    rows = [{"data": [{"x": "1"}]}, {"data": [{"x": "2"}]}]
    assert cells(read_all("\n".join(json.dumps(row) for row in rows))) == rows


@pytest.mark.parametrize("text", ["[]", "[ ]\n", "\n \n"])
def test_no_rows_are_no_records(text):
    assert read_all(text) == []


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "x,"},\n{"a": "2"},  \n',
        '[{"a": "x,"}, {"a": "2"},]',
        '{"data": [{"a": "x,"},\n{"a": "2"} , ]}',
    ],
)
def test_a_comma_too_many_behind_a_row_is_forgiven(text):
    assert [item.cells for item in read_all(text)] == [{"a": "x,"}, {"a": "2"}]


@pytest.mark.parametrize("text", ["[,]", '[{"a": 1},,]', '[{"a": 1}'])
def test_other_commas_too_many_are_not(text):
    with pytest.raises(DataError, match="not valid JSON"):
        read_all(text)


def test_broken_lines_are_rejected_alone():
    good, cut, number, twice, last = read_all('{"a": 1}\n{"a": \n5\n{"a": 1, "a": 2}\n{"a": 2}')
    assert (good, last) == (Record("f.json:1", {"a": "1"}), Record("f.json:5", {"a": "2"}))
    said = "not valid JSON: a value is missing (or a comma is too many) at character 8"
    assert cut == Rejected("f.json:2", said, '{"a": \n')
    assert "but here stands a number" in number.reason
    assert "the key 'a' stands twice" in twice.reason


@pytest.mark.parametrize(
    ("value", "kind"),
    [("[1]", "a list"), ('"x"', "a text"), ("true", "true or false"), ("null", "null"), ("1", "a number")],
)
def test_a_line_that_is_no_object_says_what_it_is(value, kind):
    (item,) = read_lines(io.StringIO(value), "f", 100)
    assert item == Rejected(
        "f:1", f"a row must be an object with named fields, but here stands {kind}", value
    )


def test_elements_of_an_array_that_are_no_objects_are_rejected_by_number():
    items = read_all('[{"a": "1"}, 12, "x", {"a": "2"}]')
    assert [item.place for item in items] == ["f.json:1", "f.json:2", "f.json:3", "f.json:4"]
    assert [type(item) for item in items] == [Record, Rejected, Rejected, Record]
    assert items[1].raw == "12"


def test_a_refused_element_of_an_array_does_not_hide_the_next():
    items = read_all('[{"a": 1, "a": 2}, {"b": "\\ud800"}, {"c": "3"}]')
    assert [type(item) for item in items] == [Rejected, Rejected, Record]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[\n{"a": 1},\n{"a" 2}\n]', "line 3, column 6"),
        ('[{"a": 1} {"a": 2}]', "a comma or the end of the list is missing (line 1, column 11)"),
        ('[{"a": 1},', "line 1"),
        ('{"data": [{"a": 1}]', "a comma or the end of the object is missing"),
        ("not json\n{", "line 1, column 1"),
        ("[" * 200 + "]" * 200 + "\n{", ""),
    ],
)
def test_a_broken_file_is_refused_with_the_place(text, where):
    with pytest.raises(DataError) as caught:
        [item for item in read_all(text) if isinstance(item, Rejected) and _raise(item)]
    assert where in caught.value.message


def _raise(item):
    raise DataError(item.reason, remedy="", code="")


def test_lines_and_values_over_the_limit_are_refused_without_reading_on():
    (item,) = read_all('{"a": "' + "x" * 200 + '"}\n', by_line=True, limit=100)
    assert item.reason == "the line has more than 100 characters"
    with pytest.raises(DataError, match="one value has more than 100 characters"):
        read_all('[{"a": "' + "x" * 70_000, limit=100)


def test_values_are_found_across_the_borders_of_the_window():
    rows = [{"text": "y" * 5_000 + str(number)} for number in range(100)]
    assert cells(read_all(json.dumps(rows))) == rows
    assert cells(read_all(json.dumps({"x": 1, "data": rows}))) == rows


def test_a_row_per_line_needs_only_one_good_line_to_be_known():
    items = read_all("garbage\n" + '{"a": "1"}\n')
    assert [type(item) for item in items] == [Rejected, Record]


def test_a_break_far_behind_the_beginning_has_its_line():
    rows = "".join(f'{{"text": "{number:080}"}},\n' for number in range(3_000))
    with pytest.raises(DataError, match=r"line 3001, column 9"):
        read_all(f'[{rows}{{"text" 1}}]')


def test_a_number_over_the_end_of_what_was_read_stays_whole():
    number, row = read_all("[" + " " * 65_533 + '12345, {"text": "a"}]')
    assert isinstance(number, Rejected)
    assert number.raw == "12345"
    assert row.cells == {"text": "a"}


def test_rows_a_line_that_are_all_broken_are_rejected_one_by_one():
    items = read_all('{"a": "C:\\\\Users"}\n'.replace("\\\\", "\\") + "{'a': 1}\n", by_line=True)
    assert [item.place for item in items] == ["f.json:1", "f.json:2"]
    assert all(isinstance(item, Rejected) for item in items)
