import pytest

from backend.data.records import Record
from backend.data.refusals import (
    column_settings,
    foreign_format,
    listed,
    one_object,
    unknown_parts,
    unknown_shape,
)
from tests.backend.data.rows import assistant, user


def records(*cells):
    return [Record(f"f.csv:{number}", each) for number, each in enumerate(cells, 2)]


def names(sample):
    return {name.lower(): name for record in sample for name in record.cells}


def refused(*cells):
    sample = records(*cells)
    return unknown_shape(names(sample), sample)


def test_flags_are_as_a_shell_takes_them():
    assert column_settings({"prompt": "my question", "completion": "a"}) == (
        "`columns.prompt=my question` `columns.completion=a`"
    )


def test_many_columns_are_listed_to_a_number():
    assert listed([f"c{number}" for number in range(23)]).endswith("c18, c19 and 3 more")


@pytest.mark.parametrize(
    ("cells", "flags"),
    [
        ({"Q": "1", "A": "2"}, "`columns.prompt=Question` `columns.completion=Answer`"),
        (
            {"Frage": "Was ist das hier?", "Antwort": "Das ist es ja"},
            "`columns.prompt=Frage` `columns.completion=Antwort`",
        ),
        (
            {"question": "q", "verdict": "It is so indeed"},
            "`columns.prompt=question` `columns.completion=verdict`",
        ),
        ({"content": "c", "title": "Of some old foxes"}, "or `columns.text=content`"),
        ({"log": [user("q"), assistant("a")], "x": "1"}, "`columns.messages=log`"),
    ],
)
def test_the_way_out_names_the_columns_that_are_there(cells, flags):
    assert flags in refused(cells).remedy


@pytest.mark.parametrize("delimiter", ["~", "#", "^"])
def test_one_column_that_parts_evenly_is_told_its_delimiter(delimiter):
    sign = f"a{delimiter}b{delimiter}c"
    error = refused({sign: f"1{delimiter}2{delimiter}3"}, {sign: f"4{delimiter}5{delimiter}6"})
    assert f"`data.delimiter={delimiter}`" in error.remedy.replace(
        f"delimiter {delimiter}.", f"delimiter '{delimiter}'."
    )


def test_one_column_that_does_not_is_not():
    assert "--data.delimiter" not in refused({"a~b": "1~2"}, {"a~b": "12"}).remedy


def test_parts_that_make_up_no_shape_list_those_that_do():
    assert "prompt/completion: prompt, completion (and input" in unknown_parts({"prompt", "text"}).remedy


def test_a_known_format_is_called_so_only_where_no_better_shape_fits():
    sample = records({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"})
    assert foreign_format(names(sample), sample, "text") is not None
    assert foreign_format(names(sample), sample, "messages") is None


def test_one_object_with_all_rows_in_it_is_told_from_a_row():
    assert one_object(records({"a": ["1", "2"], "b": ["3", "4"]})) is not None
    assert one_object(records({"a": ["1", "2"]})) is None
    assert one_object(records({"a": "1", "b": "2"})) is None
