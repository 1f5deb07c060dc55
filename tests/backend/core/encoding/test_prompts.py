"""Prompts of a run that samples its answers: how many are kept, and what is refused by name."""

from __future__ import annotations

import pytest

from backend.core.encoding.prompts import Prompt, Prompts
from backend.errors import DataError
from backend.run.config import DataConfig


def _prompts(*lengths: int) -> list[Prompt]:
    return [Prompt(f"p.jsonl:{number}", "?", tuple(range(n)), "") for number, n in enumerate(lengths, 1)]


def _data(limit: int = 16, truncation: str = "error") -> DataConfig:
    return DataConfig(train="p.jsonl", max_length=limit, truncation=truncation)


def test_they_are_counted_with_the_longest_answers() -> None:
    found = Prompts(_prompts(3, 5), _data(), answer_tokens=4, generations=2)
    assert (len(found), found.row_count, found.documents, found[1].row) == (2, 2, 2, "p.jsonl:2")
    assert (found.trained_tokens, found.tokens) == (2 * 2 * 4, 2 * 2 * 4 + 2 * 8)
    assert [each.row for each in found[:1]] == ["p.jsonl:1"]
    assert found.is_complete
    assert not found.tokenise_next()


def test_a_prompt_that_leaves_no_room_is_refused_or_dropped() -> None:
    with pytest.raises(DataError, match=r"p\.jsonl:2 has a prompt of 13 tokens") as refused:
        Prompts(_prompts(12, 13), _data(), answer_tokens=4, generations=2)
    assert refused.value.code == "too-long"
    found = Prompts(_prompts(12, 13), _data(truncation="drop"), answer_tokens=4, generations=2)
    assert (len(found), found.dropped) == (1, ["p.jsonl:2"])


def test_none_left_is_an_error() -> None:
    with pytest.raises(DataError, match="None of the 1 rows") as refused:
        Prompts(_prompts(13), _data(truncation="drop"), answer_tokens=4, generations=2)
    assert refused.value.code == "no-rows"


@pytest.mark.parametrize(("longest", "vocabulary", "code"), [(8, 99, "too-long"), (99, 4, "unknown-token")])
def test_a_model_must_see_and_know_all_of_it(longest: int, vocabulary: int, code: str) -> None:
    found = Prompts(_prompts(5), _data(), answer_tokens=4, generations=2)
    found.require_fit(9, 5)
    with pytest.raises(DataError, match=r"p\.jsonl:1") as refused:
        found.require_fit(longest, vocabulary)
    assert refused.value.code == code
