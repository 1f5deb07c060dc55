import pytest

from backend.data.checks.base import Scan
from backend.data.checks.repeats import (
    answer_in_prompt,
    conflicts,
    contamination,
    duplicates,
    near_contamination,
    near_duplicates,
    shared_with_held_out,
    shared_within,
)
from tests.backend.data.rows import assistant, chat, pair, pairs, user

LONG = "Which store section does this food belong to? Peas, split, mature seeds, cooked, boiled, without "


def places(examples):
    return [example.place for example in examples]


def test_a_prompt_on_both_sides_is_contamination():
    scan = Scan(pairs([("one", "1"), ("two", "2")]), validation=[pair("Two!", "2", "v:1")])
    assert places(contamination(scan)) == ["f:2"]
    assert list(contamination(Scan(scan.rows, validation=[pair("three", "3", "v:1")]))) == []


def test_nearly_the_same_row_is_near_contamination():
    scan = Scan(
        pairs([(LONG + "salt", "Legumes"), ("bread", "Baked")]), validation=[pair(LONG + "salts", "Legumes")]
    )
    assert places(near_contamination(scan)) == ["f:1"]
    assert places(contamination(scan)) == []


def test_the_most_repeated_row_comes_first():
    scan = Scan(pairs([("a", "1"), ("b", "2"), ("b", "2"), ("a", "1"), ("b", "2")]))
    assert places(duplicates(scan)) == ["f:3", "f:5", "f:4"]
    assert list(duplicates(Scan(pairs([("a", "1"), ("b", "2")])))) == []


def test_near_duplicates_leave_exact_ones_out():
    scan = Scan(pairs([(LONG + "salt", "x"), (LONG + "salts", "x"), (LONG + "salt", "x"), ("other", "y")]))
    assert places(near_duplicates(scan)) == ["f:2"]


def test_one_prompt_with_two_answers_conflicts():
    scan = Scan(pairs([("a b", "1"), (" a  b", "2"), ("a b", " 1"), ("", "3"), ("", "4")]))
    assert places(conflicts(scan)) == ["f:2"]


def test_a_question_is_all_that_stands_before_the_last_answer():
    begun = (user("Hi"), assistant("Hello!"))
    rows = [chat(*begun, user(f"q{n}"), assistant(f"a{n}"), place=f"f:{n}") for n in (1, 2, 3)]
    assert places(conflicts(Scan(rows))) == []
    assert places(conflicts(Scan([*rows, chat(*begun, user("q1"), assistant("other"), place="f:4")]))) == [
        "f:4"
    ]


def test_another_call_under_the_same_question_conflicts_and_under_other_tools_it_does_not():
    def calling(name, tools):
        call = {"type": "function", "function": {"name": name, "arguments": {}}}
        return chat(user("q"), assistant("", tool_calls=[call]), tools=tools, place=f"f:{name}")

    assert places(conflicts(Scan([calling("a", "[1]"), calling("b", "[1]")]))) == ["f:b"]
    assert places(conflicts(Scan([calling("a", "[1]"), calling("b", "[2]")]))) == []


def test_several_replies_to_one_prompt_of_a_preference_set_do_not_conflict():
    rows = [chat(user("q"), chosen=(assistant(c),), rejected=(assistant("r"),)) for c in "ab"]
    assert places(conflicts(Scan(rows))) == []


def test_paraphrases_are_found_by_their_answer():
    rows = pairs([("How do I reset it?", "Press the red button twice."), ("x", "y")])
    held_out = [pair("What is the way to start over?", "Press the red button twice.", "v:1")]
    assert places(shared_with_held_out(Scan(rows, held_out))) == ["f:1"]
    assert places(shared_within(Scan([*held_out, *rows]))) == ["f:1"]


def test_a_prompt_in_another_case_may_ask_for_something_else():
    assert places(conflicts(Scan(pairs([("what is Timeout?", "1"), ("what is timeout?", "2")])))) == []


def test_short_rows_with_one_answer_are_not_alike_for_that():
    label = "Legumes and Legume Products of every kind"
    assert places(near_duplicates(Scan(pairs([("Miso", label), ("Natto", label), ("Peas", label)])))) == []


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("Write it: git stash pop", True),
        ("git stash pop, please", True),
        ("say (git stash pop)", True),
        ("git stash popper", False),
        ("fugit stash pop", False),
    ],
)
def test_an_answer_stands_in_its_prompt_as_whole_words(prompt, told):
    rows = pairs([(prompt, "git stash pop"), ("x", "another one"), ("y", "yet another")])
    assert places(answer_in_prompt(Scan(rows))) == ["f:1"] * told
