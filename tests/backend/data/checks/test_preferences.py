from dataclasses import replace

import pytest

from backend.data.checks.base import Scan
from backend.data.checks.preferences import (
    conflicting_pairs,
    equal_pair,
    opposed,
    other_methods,
    preference_prompt,
    repeated_prompt,
    repeated_question,
    untrainable,
)
from backend.data.records import Row
from tests.backend.data.rows import assistant, chat, pair, user

PROMPT = "What colour is the sky?"


def preferred(chosen, rejected, prompt=PROMPT, place="f:1"):
    return chat(user(prompt), chosen=(assistant(chosen),), rejected=(assistant(rejected),), place=place)


def judged(answer, label, prompt=PROMPT, place="f:1"):
    return replace(pair(prompt, answer, place), label=label)


PAIR, JUDGED, CHAT, TEXT = preferred("a", "b"), judged("a", True), pair("q", "a"), Row("f:1", text="t")


@pytest.mark.parametrize(
    ("method", "fits", "others"),
    [
        ("sft", [CHAT, TEXT], [PAIR, JUDGED]),
        ("dpo", [PAIR], [CHAT, JUDGED, TEXT]),
        ("kto", [PAIR, JUDGED], [CHAT, TEXT]),
        (None, [PAIR, JUDGED, CHAT, TEXT], []),
    ],
)
def test_rows_that_the_method_does_not_learn_from_are_named(method, fits, others):
    assert list(untrainable(Scan(fits, method=method))) == []
    assert len(list(untrainable(Scan(others, method=method)))) == len(others)


def test_the_methods_that_fit_are_named():
    said = other_methods(Scan([PAIR, JUDGED], method="sft"))
    assert said.startswith(
        "The method sft learns from answers as they are (prompt, completion) or plain texts."
    )
    assert "`objective.method=dpo` or `objective.method=kto`" in said
    assert "Answers judged good or bad (prompt, completion, label) are for `objective.method=kto`." in said
    assert "are for `objective.method=sft`" in other_methods(Scan([CHAT], method="dpo"))


@pytest.mark.parametrize(
    ("chosen", "rejected", "same"),
    [
        ("yes ", "yes", True),
        ("a  b\nc", "a b c", True),
        ("yes<|im_end|>", "yes", True),
        ("yes</s>\n", "yes", True),
        ("yes", "no", False),
        ("Yes", "yes", False),
        ("if a:\n    b", "if a:\n  b", False),
        ("if a:\n    b\nc", "if a:\n    b\n    c", False),
    ],
)
def test_equal_pairs_differ_in_spacing_or_end_tokens_only(chosen, rejected, same):
    assert (equal_pair(preferred(chosen, rejected)) is not None) is same


def test_a_preference_needs_a_prompt():
    assert preference_prompt(preferred("yes", "no", prompt=" ")) is not None
    assert preference_prompt(preferred("yes", "no")) is None


@pytest.mark.parametrize(
    ("row", "repeats"),
    [
        (preferred(f"{PROMPT} Blue.", f"{PROMPT}\nGreen."), True),
        (preferred(f" {PROMPT} Blue.", PROMPT), True),
        (preferred(f"{PROMPT} Blue.", "Green."), False),  # may be why it is better or worse
        (preferred("Why? Blue.", "Why? Green.", prompt="Why?"), False),  # too short to tell
        (judged(f"{PROMPT} Blue.", False), True),
        (judged("Blue.", True), False),
        (pair(PROMPT, f"{PROMPT} Blue."), False),
        (chat(assistant("a"), label=True), False),
        (Row("f:1", text="t"), False),
    ],
)
def test_a_prompt_that_answers_repeat(row, repeats):
    assert repeated_question(row) == (PROMPT if repeats else "")
    assert (repeated_prompt(row) is not None) is repeats


def test_the_repeated_prompt_is_the_last_question():
    earlier = (user("Hello there, my friend"), assistant("Hi"))
    replies = {"chosen": (assistant(f"{PROMPT} Blue."),), "rejected": (assistant(f"{PROMPT} Green."),)}
    assert repeated_question(chat(*earlier, user(PROMPT), **replies)) == PROMPT


def test_rows_that_contradict_each_other_are_both_named():
    rows = [
        preferred("a", "b"),
        preferred("c", "b"),
        preferred("b", "a"),
        judged("a", True),
        judged("a", False),
        judged("b", False),
        preferred("a", "b", prompt="another?"),
        preferred("x", "x"),
        pair(PROMPT, "a"),
    ]
    assert opposed(rows).tolist() == [0, 2, 3, 4]
    found = list(conflicting_pairs(Scan([replace(row, place=f"f:{n}") for n, row in enumerate(rows)])))
    assert [each.place for each in found] == ["f:0", "f:2", "f:3", "f:4"]
    assert "better than another" in found[0].detail
    assert "'a' is bad here" in found[3].detail


def test_several_pairs_of_one_prompt_do_not_contradict_each_other():
    rows = [preferred("a", "b"), preferred("b", "c"), preferred("a", "c"), preferred("a", "b")]
    assert opposed(rows).tolist() == []
    assert opposed([]).tolist() == []
