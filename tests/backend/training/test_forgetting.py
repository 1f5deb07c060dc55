"""The general texts that show forgetting: backend/training/forgetting.py."""

from __future__ import annotations

import pytest

from backend.core.tokenizer import decode
from backend.training.forgetting import general_examples, general_rows
from tests.tiny import FAMILIES, Family, tiny_tokenizer


def test_the_rows_are_forty_questions_and_ten_paragraphs_each_only_once() -> None:
    rows = general_rows()
    assert [row.kind for row in rows] == ["chat"] * 40 + ["text"] * 10
    assert len({row.messages[0]["content"] for row in rows[:40]} | {row.text for row in rows[40:]}) == 50
    assert all(message["content"] for row in rows[:40] for message in row.messages)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_asked_all_of_them(family: Family) -> None:
    tokenizer = tiny_tokenizer(family)
    examples = general_examples(tokenizer, 1024)
    assert len(examples) == 50
    first = examples[0]
    assert "The capital of France is Paris." in decode(tokenizer, first.input_ids[first.trained].tolist())
    assert not first.trained[0]
    assert examples[-1].trained.all()


def test_long_ones_are_cut_and_what_has_no_answer_left_is_left_out() -> None:
    examples = general_examples(tiny_tokenizer("base"), 16)
    assert {len(each.input_ids) for each in examples} <= set(range(2, 17))
    assert 10 <= len(examples) < 50


def test_a_template_that_refuses_the_questions_leaves_the_paragraphs() -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    assert [each.row for each in general_examples(tokenizer, 1024)] == [
        f"general.jsonl:{number}" for number in range(41, 51)
    ]
