import pytest

from backend.data.checks.amounts import one_answer, score_interval, swapped_sides
from backend.data.checks.base import Scan
from tests.backend.data.rows import pairs


def test_the_interval_of_a_score_holds_it_and_narrows_with_more_rows():
    low, high = score_interval(80, 100)
    assert (low, high) == pytest.approx((0.7112, 0.8666), abs=1e-4)
    wider = score_interval(8, 10)
    assert wider[0] < low < 0.8 < high < wider[1]


@pytest.mark.parametrize("right", [0, 10])
def test_the_interval_stays_between_0_and_1(right):
    low, high = score_interval(right, 10)
    assert -1e-9 <= low <= right / 10 + 1e-9
    assert right / 10 - 1e-9 <= high <= 1 + 1e-9


QUESTIONS = [f"What is the use of tool number {n}?" for n in range(30)]
REPLIES = [f"Tool {n} cuts wood of size {n}." for n in range(30)]


def test_one_answer_to_all_questions_is_found():
    rows = pairs((question, "Ask again later.") for question in QUESTIONS)
    assert len(list(one_answer(Scan(rows)))) == 1
    assert list(one_answer(Scan(rows[:10]))) == []
    assert list(one_answer(Scan(rows[:1] * 30))) == []
    assert list(one_answer(Scan([*rows, *pairs([("q", "another")])]))) == []


def test_questions_where_answers_belong_are_found():
    assert len(list(swapped_sides(Scan(pairs(zip(REPLIES, QUESTIONS, strict=True)))))) == 1
    assert list(swapped_sides(Scan(pairs(zip(QUESTIONS, REPLIES, strict=True))))) == []
    chatty = [f"{reply} Is there anything else?" for reply in REPLIES]
    statements = [f"I lost card {n}" for n in range(30)]
    assert list(swapped_sides(Scan(pairs(zip(statements, chatty, strict=True))))) == []
