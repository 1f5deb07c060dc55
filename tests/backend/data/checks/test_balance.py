from dataclasses import replace

import pytest

from backend.data.checks.balance import cut_off_side, even_weights, length_bias, one_class, one_sided
from backend.data.checks.base import Scan
from tests.backend.data.rows import assistant, chat, pair, user

WHOLE = "The kettle boils. It takes about three minutes, and then you can pour the tea."
CUT = "The kettle boils. It takes about three minutes, and then you can pour the"


def preferred(chosen, rejected):
    return chat(user("why?"), chosen=(assistant(chosen),), rejected=(assistant(rejected),))


def judged(answer, label):
    return replace(pair("why?", answer), label=label)


def said(check, rows):
    return [each.detail for each in check(Scan([replace(row, place=f"f:{n}") for n, row in enumerate(rows)]))]


EVEN = [preferred("a reply", "another"), preferred("another", "a reply")]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([preferred("a longer reply", "a shorter one")] * 20, "chosen is longer in 100% of 20 pairs"),
        ([preferred("a longer reply", "a shorter one")] * 19, None),
        ([preferred("short", "a much, much longer one")] * 20, "on average 0.2 times as long as rejected"),
        ([preferred("a shorter one", "a longer reply")] * 20, None),  # hardly shorter, which does no harm
        ([preferred("x" * 900, "x" * 10)] * 12 + EVEN * 4, "times as long as rejected"),
        (EVEN * 10, None),
        (
            [judged("x" * 90, True), judged("x" * 30, False)] * 20,
            "good answers are on average 2.9 times as long",
        ),
        (
            [judged("x" * 30, True), judged("x" * 90, False)] * 20,
            "good answers are on average 0.3 times as long",
        ),
        ([judged("x" * 30, True), judged("x" * 35, False)] * 20, None),
        ([judged("x" * 90, True)] * 20, None),
        ([pair("q", "a")] * 30, None),
    ],
)
def test_length_that_tells_the_answers_apart(rows, found):
    details = said(length_bias, rows)
    assert len(details) == (found is not None)
    assert (found or "") in " ".join(details)


def test_ratings_that_are_all_the_same():
    assert said(one_class, [judged("a", True)] * 11) == ["all 11 answers are judged good"]
    assert said(one_class, [judged("a", False)] * 2) == ["all 2 answers are judged bad"]
    assert said(one_class, [judged("a", True), judged("a", False)]) == []
    assert said(one_class, [judged("a", True), preferred("a", "b")]) == []
    assert said(one_class, [pair("q", "a"), preferred("a", "b")]) == []


@pytest.mark.parametrize(
    ("good", "bad", "found"), [(9, 1, True), (1, 9, True), (8, 2, False), (5, 5, False), (10, 0, False)]
)
def test_ratings_most_of_which_are_the_same(good, bad, found):
    rows = [judged("a", True)] * good + [judged("a", False)] * bad
    assert said(one_sided, rows) == [f"{good} answers are judged good and {bad} bad"] * found


def test_the_weight_that_evens_ratings_out_goes_to_the_rare_ones():
    rows = [judged("a", True)] * 12 + [judged("a", False)] * 3
    assert even_weights(Scan(rows)) == "With `objective.undesirable_weight=4.0` both count the same."
    assert "`objective.desirable_weight=3.0`" in even_weights(Scan(rows[-4:]))


@pytest.mark.parametrize(
    ("cut", "whole", "found"),
    [
        ([preferred(WHOLE, CUT)] * 10, [preferred(WHOLE, WHOLE)] * 50, "the bad answer ends with"),
        ([preferred(CUT, WHOLE)] * 10, [preferred(WHOLE, WHOLE)] * 50, "the good answer ends with"),
        ([preferred(WHOLE, " ")] * 10, [preferred(WHOLE, WHOLE)] * 50, "the bad answer ends with ''"),
        ([judged(CUT, False)] * 10, [judged(WHOLE, True), judged(WHOLE, False)] * 25, "the bad answer ends"),
        ([preferred(WHOLE, CUT)] * 9, [preferred(WHOLE, WHOLE)] * 50, None),  # few
        ([preferred(WHOLE, CUT)] * 10, [preferred(WHOLE, WHOLE)] * 400, None),  # rare
        ([preferred(CUT, CUT)] * 10, [preferred(WHOLE, WHOLE)] * 50, None),  # on both sides
        ([pair("q", CUT)] * 10, [pair("q", WHOLE)] * 50, None),
    ],
)
def test_answers_of_one_side_that_break_off(cut, whole, found):
    details = said(cut_off_side, [*cut, *whole])
    assert len(details) == (len(cut) if found else 0)
    assert all(found in detail for detail in details)
