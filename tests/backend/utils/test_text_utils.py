import pytest

from backend.utils.text_utils import (
    counted,
    indents,
    is_blank,
    normalise,
    one_edit_apart,
    shorten,
    signs,
    without_controls,
    writable,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("  Ａ-b,\tC! ", "a b c"), ("Grüße", "grüße"), ("ﬁne", "fine"), ("...", ""), ("", ""), ("a_b", "a b")],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize("text", ["", " \n", "\u200b\ufeff", "\u2800", "\u3164", "\u0301"])
def test_what_cannot_be_seen_is_blank(text):
    assert is_blank(text)
    assert not is_blank(f"{text}.")


def test_indents_are_those_of_lines_but_the_first():
    assert indents("  a\n    b\n\tc\n   \nd") == "    \n\t"


@pytest.mark.parametrize("unit", ["-", "= ", "+1 ", "a+"])
def test_a_long_ruler_is_looked_at_once(unit):
    assert len(signs(unit * 100_000)) <= 300_000


def test_shorten_keeps_short_texts_on_one_line():
    assert shorten(" a\n b ") == "a b"
    assert shorten("x" * 120) == "x" * 120


def test_control_characters_never_reach_a_terminal():
    assert without_controls("a\x1b[31mb\x9bc\nd") == "a·[31mb·c\nd"
    assert shorten("a\x1b]0;b\x07") == "a·]0;b·"


def test_shorten_cuts_in_the_middle():
    cut = shorten("a" * 100 + "b" * 100, 60)
    assert len(cut) == 60
    assert cut.startswith("aaa")
    assert cut.endswith("bbb")
    assert "…" in cut


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("positive", "positve", True),
        ("positive", "pozitive", True),
        ("positive", "positives", True),
        ("positive", "positive", False),
        ("positive", "negative", False),
        ("abcd", "abdc", False),
        ("ab", "abcd", False),
    ],
)
def test_one_edit_apart(left, right, expected):
    assert one_edit_apart(left, right) is expected
    assert one_edit_apart(right, left) is expected


@pytest.mark.parametrize(("count", "words"), [(0, "0 rows"), (1, "1 row"), (2000, "2,000 rows")])
def test_counted(count, words):
    assert counted(count, "row") == words


def test_what_utf8_cannot_hold_becomes_an_escape():
    assert writable("é漢 a") == "é漢 a"
    assert writable("b\udce9\ud800") == "b\\udce9\\ud800"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[("2 + 2", "+"), ("2*2", "*"), ("-1", "-"), ("a + b", "+"), ("x=3 - 1", "= -"), ("10% of it", "%")],
        *[
            ("C++ code", "++"),
            ("C# code", "#"),
            ("# C", ""),
            ("and/or", ""),
            ("spare-part", ""),
            ("**bold**", ""),
        ],
        *[("Paris - the city", ""), ("- one\n- two", ""), ("", "")],
    ],
)
def test_signs_are_those_that_change_what_is_said(text, expected):
    assert signs(text) == expected
