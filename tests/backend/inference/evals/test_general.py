"""What a model still knows of general things: backend/inference/evals/general.py."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from backend.data.records import Row
from backend.inference.evals.general import answer_probabilities
from backend.inferencer import Inferencer


def exchange(question: str, answer: str) -> Row:
    turns = ("user", question), ("assistant", answer)
    return Row("a:1", messages=tuple({"role": role, "content": content} for role, content in turns))


def test_the_probability_of_an_answer_is_that_of_its_tokens(tiny_folder: Path) -> None:
    with Inferencer(tiny_folder) as model:
        (found,) = answer_probabilities(model, [exchange("test input", "expected output")])
        before = model.render([{"role": "user", "content": "test input"}])
        ids = model.tokenizer("expected output", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            whole = model.model(torch.tensor([[*before, *ids]])).logits[0].float().log_softmax(-1)
        own = whole[len(before) - 1 : -1][torch.arange(len(ids)), torch.tensor(ids)]
    assert found == pytest.approx(math.exp(float(own.mean())), rel=1e-4)


def test_rows_without_an_answer_are_left_out_and_long_ones_unknown(tiny_folder: Path) -> None:
    rows = [Row("a:1", text="a text"), exchange("word " * 600, "a"), exchange("a", "word " * 600)]
    with Inferencer(tiny_folder) as model:
        assert answer_probabilities(model, rows) == [0.0, 0.0]
