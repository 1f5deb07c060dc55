import pytest

from backend.data.checks import ALL
from backend.data.checks.base import MAX_LABELS, Scan, given_answer
from backend.data.records import Row
from tests.backend.data.rows import pair, pairs


def test_plain_text_has_no_answer():
    assert [given_answer(row) for row in (Row("f:1", text="plain"), pair("a", " b "))] == ["", " b "]


def test_few_short_answers_are_labels():
    answers = ["yes", "no"] * 6
    assert Scan(pairs([(str(number), answer) for number, answer in enumerate(answers)])).labels == answers


def test_distinct_long_or_many_answers_are_no_labels():
    distinct = pairs([(str(number), f"answer {number}") for number in range(12)])
    long = pairs([(str(number), "x" * (61 + number % 2)) for number in range(12)])
    many = pairs([(str(number), f"label {number % (MAX_LABELS + 1)}") for number in range(4 * MAX_LABELS)])
    assert [Scan(rows).labels for rows in (distinct, long, many)] == [[], [], []]


def test_one_label_is_none():
    assert Scan(pairs([("a", "x")] * 9)).labels == []


LONG_CELL = 100_000
"""Characters; what takes the square of that as steps does not end before the time limit of a test."""


def test_sums_are_no_labels():
    sums = [(f"{a} + {b}", str(a + b)) for a in range(12) for b in range(12)]
    assert Scan(pairs(sums)).labels == []
    assert Scan(pairs((f"q {n}", str(n % 5)) for n in range(60))).labels != []


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "as an ai ",
            "as a large a ",
            "i'm sorry but i ",
            "://a-a-a-",
            "eyJ-",
            "a@",
            "-----BEGIN PRIVATE KEY----- A",
        ),
        *("password=", "{{ ", "[Your ", "<div ", "1 ", "2001:", " \n", "`", "<|", "Human: ", "; ", "a("),
    ],
)
def test_a_long_cell_takes_no_more_than_a_look_at_each_character(unit):
    text = (unit * LONG_CELL)[:LONG_CELL]
    row = Row("f:1", messages=({"role": "user", "content": "q"}, {"role": "assistant", "content": text}))
    looks = [check.by_row for check in ALL if check.by_row]
    assert len([look(row) for look in looks]) == len(looks)
