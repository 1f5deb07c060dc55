from dataclasses import dataclass

import pytest

from backend.data.checks.base import Scan
from backend.data.checks.tokens import (
    broken_answer,
    end_not_trained,
    mask_wrong,
    not_rendered,
    too_long,
    unfinished,
)
from backend.data.records import Row
from backend.errors import DataError
from tests.backend.data.rows import pair, pairs

END = frozenset({9})


@dataclass
class Tokens:
    input_ids: list[int]
    trained: list[bool]


def scan(tokens, **more):
    return Scan([pair("a", "b")], encode=lambda _: tokens, end_ids=END, **more)


def refuse(row):
    raise DataError("roles must take turns.", remedy="Mend it.", code="template-refused")


@pytest.mark.parametrize(
    ("tokens", "count"),
    [
        (Tokens([1, 2, 9], [False, True, True]), 0),
        (Tokens([1, 2, 9], [False, True, False]), 1),
        (Tokens([1, 2, 3], [False, True, True]), 1),
        (Tokens([1, 2, 9], [False, False, False]), 0),
    ],
)
def test_the_end_must_be_trained(tokens, count):
    assert len(list(end_not_trained(scan(tokens)))) == count


@pytest.mark.parametrize(
    ("ids", "trained", "said"),
    [
        ([1, 5, 9, 1, 6, 9], [0, 1, 1, 0, 1, 1], None),
        ([1, 5, 6, 1, 6, 9], [0, 1, 1, 0, 1, 1], "after 1 of 2 answers"),
        ([1, 5, 9, 1, 6, 5], [0, 1, 1, 0, 1, 1], "after 1 of 2 answers"),
        ([1, 5, 6, 1, 6, 5], [0, 1, 1, 0, 1, 1], "after 2 of 2 answers"),
        ([1, 5, 8, 1, 6, 9], [0, 1, 1, 0, 1, 1], None),
        ([1, 5, 9, 1, 6, 8], [0, 1, 1, 0, 1, 1], "after 1 of 2 answers"),
        ([5, 9, 6, 5], [1, 1, 1, 1], None),
    ],
    ids=["all", "not the first", "not the last", "none", "a call", "a call at the end", "a whole text"],
)
def test_every_answer_of_a_row_must_end(ids, trained, said):
    found = list(end_not_trained(scan(Tokens(ids, list(map(bool, trained))), special_ids=frozenset({8, 9}))))
    assert [said in each.detail for each in found] == [True] * (said is not None)


@pytest.mark.parametrize(
    ("answer", "trained", "found"),
    [
        ("It rains.", "sunny", 1),
        ("It is sunny.", "It is sunny.", 0),
        ("It is sunny.", "sunny It is sunny.", 1),
    ],
)
def test_the_result_of_a_tool_is_not_to_be_trained(answer, trained, found):
    row = Row(
        "f:1",
        (
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "", "tool_calls": []},
            {"role": "tool", "content": "sunny"},
            {"role": "assistant", "content": answer},
        ),
    )
    tokens = Tokens([1, 2, 9], [False, True, True])
    looked = Scan([row], encode=lambda _: tokens, end_ids=END, decode=lambda ids: trained)
    assert [each.detail for each in mask_wrong(looked)] == ["what a tool answered is trained: sunny"] * found


@pytest.mark.parametrize(
    ("trained", "said"),
    [([False, False], "none of 2"), ([True, True], "the prompt too")],
)
def test_a_mask_of_one_kind_is_wrong(trained, said):
    assert said in next(iter(mask_wrong(scan(Tokens([1, 9], trained))))).detail


def test_a_mixed_mask_is_right():
    assert list(mask_wrong(scan(Tokens([1, 9], [False, True])))) == []


def test_refused_rows_are_named_and_stop_no_other_check():
    refused = Scan([pair("a", "b")], encode=refuse, end_ids=END, max_length=1)
    assert "roles must take turns" in next(iter(not_rendered(refused))).detail
    assert [*mask_wrong(refused), *end_not_trained(refused), *too_long(refused)] == []


def test_nothing_is_refused_without_a_model():
    assert list(not_rendered(Scan([pair("a", "b")]))) == []


def test_too_long_is_one_more_than_fits():
    tokens = Tokens([1, 2, 9], [False, True, True])
    assert len(list(too_long(scan(tokens, max_length=2)))) == 1
    assert list(too_long(scan(tokens, max_length=3))) == []


def test_a_few_answers_that_stop_in_mid_sentence():
    whole = "one two three four five six seven eight nine ten eleven twelve."
    rows = pairs([("a", whole)] * 10 + [("b", f"{whole} And so it goes on")])
    assert [example.place for example in unfinished(Scan(rows))] == ["f:11"]
    assert list(unfinished(Scan(rows[2:]))) == []


@pytest.mark.parametrize(
    ("end", "breaks_off"),
    [
        ("and then it goes", True),
        ("and then it goes,", True),
        ("\nthe next line goes on", True),
        ("\n    an indented line of four", False),
        ("\n- one of the list items", False),
        ("\nThree words only", False),
        ("and this line is as full as lines are when\nit breaks", True),
        ("it calls heappush(heap) followed by", True),
        ("\n- one of the list items and", True),
        ('"quoted words" come before these', True),
        ("\ncolour: what the thing looks like", False),
        ("\nNote: the sentence ends. But this one", True),
        ("all of it stands at https://docs.python.org", False),
        ("it calls with these os.path.join", False),
        ("it gives back a value of 10", False),
        ("and it ends here:", False),
    ],
)
def test_lists_code_addresses_and_numbers_need_no_end_mark(end, breaks_off):
    whole = "one two three four five six seven eight nine ten eleven twelve."
    rows = pairs([("a", whole)] * 10 + [("b", f"{whole} {end}")])
    assert [example.place for example in unfinished(Scan(rows))] == ["f:11"] * breaks_off


@pytest.mark.parametrize(("last", "named"), [("eleven", []), ("the", ["f:11"])])
def test_an_answer_that_uses_no_end_marks_is_named_only_for_a_word_that_wants_another(last, named):
    whole = "one two three four five six seven eight nine ten eleven twelve."
    rows = pairs(
        [("a", whole)] * 10 + [("b", f"one two three four five six seven eight nine ten eleven {last}")]
    )
    assert [example.place for example in unfinished(Scan(rows))] == named


@pytest.mark.parametrize(
    ("answer", "said"),
    [('{"a": 1', "begins as JSON"), ("```py\nx", "never closed"), ('{"a": 1}', ""), ("[see] this", "")],
)
def test_broken_answers(answer, said):
    assert said in (broken_answer(pair("a", answer)) or "")
    assert bool(broken_answer(pair("a", answer))) == bool(said)
