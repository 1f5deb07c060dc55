import io

import pytest

from backend.data.records import Record, Rejected
from backend.data.text_files import proper_suffix, read_text


def test_a_row_per_line_keeps_everything_but_the_ending():
    items = list(read_text(io.StringIO(" a \r\n\n\tb\n", newline=""), "t.txt", 100, whole_file=False))
    assert items == [Record("t.txt:1", {"text": " a "}), Record("t.txt:3", {"text": "\tb"})]


def test_a_whole_file_is_one_row():
    items = list(read_text(io.StringIO("a\n\nb\n", newline=""), "t.txt", 100, whole_file=True))
    assert items == [Record("t.txt:1", {"text": "a\n\nb\n"})]


def test_a_file_of_white_space_has_no_row():
    assert list(read_text(io.StringIO(" \n\n"), "t.txt", 100, whole_file=True)) == []
    assert list(read_text(io.StringIO(" \n\n"), "t.txt", 100, whole_file=False)) == []


@pytest.mark.parametrize("whole_file", [True, False])
def test_what_is_over_the_limit_is_rejected(whole_file):
    (item,) = read_text(io.StringIO("x" * 200), "t.txt", 100, whole_file=whole_file)
    assert isinstance(item, Rejected)
    assert "more than 100 characters" in item.reason


def test_a_byte_that_could_not_be_decoded_rejects_its_line():
    bad, good = read_text(io.StringIO("caf\udce9\nb\n"), "t.txt", 100, whole_file=False)
    assert "0xE9" in bad.reason
    assert good == Record("t.txt:2", {"text": "b"})


@pytest.mark.parametrize(
    ("lines", "ending"),
    [
        (['{"prompt": "q"}', ' {"prompt": "p"},'], ".jsonl"),
        (["Prompt,Completion", "q,a"], ".csv"),
        (['"question";"answer"', "q;a"], ".csv"),
        (["question\tanswer", "q\ta"], ".tsv"),
        (["A text, a prompt", "and more"], ""),
        (["prompt,completion"], ""),
        (['{"prompt": "q"}', "not that"], ""),
        ([], ""),
    ],
)
def test_lines_that_are_no_plain_text_say_which_ending_they_want(lines, ending):
    assert proper_suffix(lines) == ending
