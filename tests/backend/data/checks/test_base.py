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
