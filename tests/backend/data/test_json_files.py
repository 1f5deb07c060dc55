import io
import json

import pytest

from backend.data.json_files import read_json, read_lines
from backend.data.records import Record, Rejected, Skipped
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
    assert "but this is a number" in number.reason
    assert "the key 'a' stands twice" in twice.reason


@pytest.mark.parametrize(
    ("value", "kind"),
    [("[1]", "a list"), ('"x"', "a text"), ("true", "true or false"), ("null", "null"), ("1", "a number")],
)
def test_a_line_that_is_no_object_says_what_it_is(value, kind):
    (item,) = read_lines(io.StringIO(value), "f", 100)
    assert item == Rejected("f:1", f"a row must be an object with named fields, but this is {kind}", value)


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


SPLITS = {"version": "1", "validation": [{"text": "v"}], "train": ROWS, "test": [{"text": "x"}] * 2}
ARRANGED = [
    json.dumps(SPLITS),
    json.dumps(SPLITS, indent=2),
    json.dumps({key: SPLITS[key] for key in ("train", "test", "validation", "version")}),
    json.dumps({key: SPLITS[key] for key in ("validation", "version", "train", "test")}, indent=1),
]


@pytest.mark.parametrize("text", ARRANGED)
def test_of_several_lists_the_rows_that_train_are_read_and_the_others_are_named(text):
    items = read_all(text)
    assert cells(item for item in items if isinstance(item, Record)) == ROWS
    skipped = {item.place: item.reason for item in items if isinstance(item, Skipped)}
    assert skipped == {
        "f.json/validation": "another list, 1 row of the split 'validation'",
        "f.json/test": "another list, 2 rows of the split 'test'",
    }


@pytest.mark.parametrize("text", ARRANGED)
def test_the_split_that_is_asked_for_is_taken(text):
    stream = io.StringIO(text, newline="\n")
    items = list(read_json(stream, text, "f.json", 1_000_000, split="test"))
    assert cells(item for item in items if isinstance(item, Record)) == SPLITS["test"]


@pytest.mark.parametrize(
    "text", [json.dumps(ROWS), json.dumps(ROWS[0]), '{"text": "a"}\n{"text": "b"}', "[]"]
)
def test_a_split_asked_of_rows_that_are_of_none_is_an_error(text):
    with pytest.raises(DataError, match="nothing in it says which rows are the split 'test'"):
        list(read_json(io.StringIO(text, newline="\n"), text, "f.json", 1_000_000, split="test"))


def test_only_lists_that_are_held_out_are_no_training_rows():
    with pytest.raises(DataError, match="holds the lists test, dev, which are for testing"):
        read_all('{"test": [{"text": "a"}], "dev": [{"text": "b"}]}')


@pytest.mark.parametrize("indent", [None, 1])
def test_lists_under_unknown_names_are_refused_with_their_names(indent):
    with pytest.raises(DataError, match=r"2 lists of rows: 'dataset1' \(3 rows\), 'dataset2' \(3 rows\)"):
        read_all(json.dumps({"dataset1": ROWS, "dataset2": ROWS}, indent=indent))


CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHARED = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize("turns", [CHAT, SHARED])
@pytest.mark.parametrize("lines", [1, 2, 30])
def test_a_line_that_is_a_list_of_messages_is_a_conversation(turns, lines):
    text = f"{json.dumps(turns)}\n" * lines
    items = read_all(text, by_line=True)
    assert items == [Record(f"f.json:{number}", {"messages": turns}) for number in range(1, lines + 1)]


def test_a_list_of_lists_of_messages_is_a_list_of_conversations():
    assert cells(read_all(json.dumps([CHAT, SHARED]))) == [{"messages": CHAT}, {"messages": SHARED}]


def test_other_lists_in_lines_are_rejected_with_their_line():
    items = read_all('["q", "a"]\n["r", "b"],\n{"text": "c"}\n', by_line=True)
    assert [(item.place, type(item)) for item in items] == [
        ("f.json:1", Rejected),
        ("f.json:2", Rejected),
        ("f.json:3", Record),
    ]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_of_rows_in_a_file_of_lines_is_read_as_before(indent):
    assert cells(read_all(json.dumps(ROWS, indent=indent), by_line=True)) == ROWS
    assert cells(read_all("[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]", by_line=True)) == ROWS
    assert cells(read_all('{"data": [\n' + ",\n".join(map(json.dumps, ROWS)) + "\n]}", by_line=True)) == ROWS


def test_commas_behind_lines_do_not_hide_a_broken_line():
    text = '{"a": "1"},\n{"a": \n' + '{"a": "2"},\n' * 38
    items = read_all(text, by_line=True)
    assert [type(item) for item in items] == [Record, Rejected, *[Record] * 38]


def test_a_list_of_texts_is_rows_of_text():
    assert read_all('["Is it open?", "007"]') == [
        Record("f.json:1", {"text": "Is it open?"}),
        Record("f.json:2", {"text": "007"}),
    ]
