"""From an assertion to its check: backend/inference/evals/assertions.py."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import ConfigError
from backend.inference.evals.assertions import (
    NOT_DETERMINISTIC,
    SPECIAL,
    WORDS,
    close_all,
    combined,
    make_verifier,
    make_verifiers,
)
from backend.inference.evals.verdicts import Answer, Score

ROW = {"prompt": "p", "expected": "12", "tools": [{"name": "f"}]}
VALUES: dict[str, dict[str, Any]] = {
    "regex": {"value": "(x+x+)+y"},
    "word-count": {"value": 3},
    "finish-reason": {"value": "stop"},
    "perplexity": {"threshold": 5},
    "is-json": {"value": {"items": {"pattern": "(a+)+$"}}},
}
HOSTILE = {
    "a megabyte": "x" * 1_000_000,
    "words": "word " * 200_000,
    "NUL": "a\0b" * 1_000,
    "half characters": "\ud800\udfff \udc00" * 1_000,
    "brackets": "[" * 1_000_000,
    "deep": "[" * 100_000 + "]" * 100_000,
    "digits": "1" * 1_000_000,
    "long list": "[" + "1," * 20_000 + "1]",
    "nothing": "",
    "marks": "&lt;.-," * 7_000,
    "bidi": "\u202e\u0000\ufeff",
}


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_text_makes_a_check_fail_or_hang(word: str, text: str) -> None:
    check = make_verifier({"type": word, **VALUES.get(word, {})}, "x")
    started = time.process_time()
    found = check(Answer(text, "stop", 1, -1.0), ROW)
    assert time.process_time() - started < 2
    assert 0 <= found.score <= 1
    assert found.reason or found.passed


@pytest.mark.parametrize("word", WORDS)
@settings(max_examples=20)
@given(text=st.text(max_size=20), expected=st.text(max_size=20))
def test_not_turns_every_check_around(word: str, text: str, expected: str) -> None:
    one, other = (
        make_verifier({"type": kind, **VALUES.get(word, {})}, "x")(
            Answer(text, "length", 2, -3.0), ROW | {"expected": expected}
        )
        for kind in (word, f"not-{word}")
    )
    assert one.decided == other.decided
    assert (one.passed != other.passed) is one.decided
    assert one.score + other.score == pytest.approx(float(one.decided))


def test_a_check_has_a_name_and_a_weight() -> None:
    check = make_verifier({"type": "not-contains", "value": "a", "weight": 2}, "x")
    assert (check.name, check.weight) == ("not-contains", 2.0)
    assert check(Answer("a"), ROW) == Score(False, 0.0, "It is so: contains.")
    assert make_verifier({"type": "contains", "metric": "Form"}, "x").name == "Form"
    close_all([check])


@pytest.mark.parametrize("word", sorted(NOT_DETERMINISTIC))
def test_what_needs_a_judge_is_refused_by_name(word: str) -> None:
    with pytest.raises(ConfigError, match=f"{word} is not deterministic") as refused:
        make_verifier({"type": word}, "tests[2].assert[1]")
    assert refused.value.code == "unknown-assertion"
    assert refused.value.problems[0].field == "tests[2].assert[1].type"


def test_a_typing_mistake_gets_the_word_that_was_meant() -> None:
    with pytest.raises(ConfigError, match="Did you mean contains-all"):
        make_verifier({"type": "contain-all", "value": "a"}, "x")
    with pytest.raises(ConfigError, match="Use one of equals"):
        make_verifier({"type": "qqq"}, "x")
    assert not NOT_DETERMINISTIC & {*WORDS, *SPECIAL}


@pytest.mark.parametrize("given", [None, [], {"type": "contains"}, "contains"])
def test_assertions_are_a_list(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"x\.assert"):
        make_verifiers(given, "x.assert")
    with pytest.raises(ConfigError, match=r"x\.assert"):
        make_verifier({"type": "assert-set", "assert": given}, "x")


# --- several at once --------------------------------------------------------------------------------------


def set_of(*members: dict[str, Any], **more: Any) -> Score:
    check = make_verifier({"type": "assert-set", "assert": list(members), **more}, "x")
    return check(Answer("abc"), ROW)


A, B, X = ({"type": "contains", "value": sign} for sign in "abx")


def test_all_of_a_set_must_pass() -> None:
    assert set_of(A, B) == Score(True, 1.0, "")
    assert set_of(A, X) == Score(False, 0.5, "It does not contain 'x'.")


def test_or_enough_of_it() -> None:
    assert set_of(A, X, threshold=0.5).passed
    assert not set_of(A, X, threshold=0.51).passed
    assert set_of(A | {"weight": 3}, X, threshold=0.75) == Score(True, 0.75, "")


def test_what_weighs_nothing_is_only_shown() -> None:
    assert set_of(A, X | {"weight": 0}) == Score(True, 1.0, "")
    assert set_of(X | {"weight": 0}) == Score(True, 1.0, "")


def test_one_that_is_undecided_leaves_the_set_so() -> None:
    unknown = {"type": "contains", "value": "{{town}}"}
    assert set_of(A, unknown) == Score(False, 0.0, "The row has no town.", decided=False)
    assert set_of(A, unknown | {"weight": 0}).passed
    negated = make_verifier({"type": "not-assert-set", "assert": [unknown]}, "x")
    assert not negated(Answer("a"), ROW).passed


SCORES = st.tuples(st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from([0.0, 0.5, 1.0]))


@given(st.lists(SCORES, min_size=1, max_size=5))
def test_a_combined_score_is_the_weighted_mean(given: list[tuple[float, float]]) -> None:
    found = combined([(weight, Score(share == 1, share, "no")) for weight, share in given], None)
    total = sum(weight for weight, _ in given)
    assert found.score == pytest.approx(sum(w * s for w, s in given) / total if total else 1)
    assert found.passed == all(share == 1 for weight, share in given if weight)
