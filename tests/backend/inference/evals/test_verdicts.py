"""An answer and what a check says of it: backend/inference/evals/verdicts.py."""

from __future__ import annotations

import pytest

from backend.inference.evals.verdicts import MAX_CHARACTERS, Answer, Score, UndecidedError, require_short


def test_of_an_answer_only_its_text_must_be_known() -> None:
    answer = Answer("a")
    assert (answer.finish_reason, answer.tokens, answer.logprob, answer.tool_calls) == (None, None, None, ())


def test_a_score_is_decided_unless_it_says_so() -> None:
    assert Score(True, 1.0, "").decided


@pytest.mark.parametrize("long", [0, 1])
def test_the_longest_text_that_is_measured(long: int) -> None:
    texts = ["a", "a"]
    texts[long] = "a" * MAX_CHARACTERS
    require_short(*texts)
    texts[long] += "a"
    with pytest.raises(UndecidedError, match="50,000"):
        require_short(*texts)
