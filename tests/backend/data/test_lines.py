import io

import pytest

from backend.data.lines import Line, bounded_lines, without_ending


def test_bounded_lines_numbers_lines_and_keeps_their_endings():
    stream = io.StringIO("a\r\nb\rc\n\nd", newline="")
    assert list(bounded_lines(stream, 100)) == [
        Line(1, "a\r\n"),
        Line(2, "b\r"),
        Line(3, "c\n"),
        Line(4, "\n"),
        Line(5, "d"),
    ]


def test_bounded_lines_cuts_a_line_over_the_limit_and_goes_on_behind_it():
    stream = io.StringIO("x" * 25 + "\nnext\n", newline="")
    assert list(bounded_lines(stream, 10)) == [Line(1, "x" * 10, too_long=True), Line(2, "next\n")]


@pytest.mark.parametrize("text", ["x" * 10, "x" * 9 + "\n"])
def test_a_line_of_exactly_the_limit_is_whole(text):
    assert list(bounded_lines(io.StringIO(text, newline=""), 10)) == [Line(1, text)]


def test_an_empty_stream_has_no_lines():
    assert list(bounded_lines(io.StringIO(""), 10)) == []


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\r"])
def test_without_ending_takes_one_ending_off(ending):
    assert without_ending("a " + ending) == "a "
    assert without_ending("a\n" + "\n") == "a\n"
