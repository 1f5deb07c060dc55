import pytest

from backend.data.json_lists import Lists, lists_in, names_rows
from backend.data.records import Skipped
from backend.errors import DataError

ROW = {"text": "a"}


def test_lists_of_objects_under_names_of_rows_and_splits_are_found():
    value = {"data": [ROW], "Train": [ROW], "eval": [ROW], "meta": [ROW], "rows": [], "items": ["a"]}
    assert lists_in(value) == {"data": [ROW], "Train": [ROW], "eval": [ROW]}
    assert lists_in([ROW]) == {}


@pytest.mark.parametrize(
    ("key", "known"), [("rows", True), ("Dev", True), ("test_list", False), ("messages", False)]
)
def test_names_of_rows_are_known_whole(key, known):
    assert names_rows(key) is known


@pytest.mark.parametrize(
    ("split", "taken"),
    [(None, ["data"]), ("test", ["test"]), ("eval", ["validation"]), ("train", ["train"])],
)
def test_the_first_list_of_the_split_is_taken_and_never_one_that_is_held_out(split, taken):
    lists = Lists("f.json", split)
    keys = ["validation", "data", "train", "test", "rows"]
    assert [key for key in keys if lists.takes(key)] == taken
    lists.close()


def test_what_is_not_read_is_named_with_its_rows_and_split():
    lists = Lists("f.json", None)
    assert lists.skipped("dev", 2) == Skipped("f.json/dev", "another list, 2 rows of the split 'validation'")
    assert lists.skipped("rows", 1) == Skipped("f.json/rows", "another list, 1 row")


@pytest.mark.parametrize(
    ("split", "said"), [(None, "which are for testing"), ("train", "none of the split 'train'")]
)
def test_lists_of_which_none_is_read_are_an_error_that_says_which_there_are(split, said):
    lists = Lists("f.json", split)
    assert not lists.takes("test")
    with pytest.raises(DataError, match=said) as caught:
        lists.close()
    assert caught.value.remedy.endswith("f.json:test")


def test_lists_under_other_names_are_counted_out():
    with pytest.raises(DataError, match=r"2 lists of rows: 'one' \(2 rows\), 'two' \(1 row\)") as caught:
        Lists("f.json", None).refuse_unknown({"one": [ROW, ROW], "two": [ROW], "n": 1})
    assert caught.value.code == "several-lists"


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": [ROW, ROW], "completion": "a"},
        {"thread": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"one": [ROW], "two": "x"},
    ],
)
def test_a_row_with_lists_in_it_is_a_row(value):
    assert Lists("f.json", None).refuse_unknown(value) is None


def test_a_split_asked_of_a_file_without_lists_is_an_error():
    Lists("f.json", None).none_here()
    with pytest.raises(DataError, match="which rows are the split 'dev'"):
        Lists("f.json", "dev").none_here()
