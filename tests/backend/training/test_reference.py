"""The reference is the model before training: kept whole or not at all, and found again bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from backend.errors import TrainingError
from backend.training.batching import Packing
from backend.training.distributed import ALONE
from backend.training.reference import (
    Mismatched,
    Reference,
    answer_of,
    logprobs_of,
    read_reference,
    require_equal,
    save_reference,
    without_dropout,
)
from tests.backend.core.rows import FULL, LORA, PLAN, lively_model, random_pairs, shake, start

PAIRS = random_pairs(4)
PARTS = {"train": {("rows.jsonl:1", True): -1.5, ("rows.jsonl:1", False): -2.25}, "held_out": {}}


class TestLogprobs:
    @pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
    def test_the_first_step_finds_the_same_bits(self, tuning: object) -> None:
        state, packing = start(lively_model(), tuning), Packing(40)  # type: ignore[arg-type]
        told: list[int] = []
        steps = [PAIRS[:4], PAIRS[4:]]
        found = logprobs_of(state.forward, steps, packing, PLAN, ALONE, group=2, note=told.append)
        assert told == [4, 8]
        assert sorted(found) == sorted(map(answer_of, PAIRS))
        require_equal(state.forward, packing(PAIRS[:4], 2), PLAN, Reference(found))

    def test_a_model_that_moved_is_refused_with_the_row(self) -> None:
        state, packing = start(lively_model()), Packing(10_000)
        found = logprobs_of(state.forward, [PAIRS], packing, PLAN, ALONE, group=2)
        shake(state)
        with pytest.raises(TrainingError, match=r"does not agree with itself.*row 0") as caught:
            require_equal(state.forward, packing(PAIRS[:2], 2), PLAN, Reference(found))
        assert caught.value.code == "reference-differs"
        assert "orpo" in caught.value.remedy

    def test_a_process_without_a_share_of_the_step_has_nothing_to_compare(self) -> None:
        require_equal(start(lively_model()).forward, [], PLAN, Reference({}))

    def test_one_bit_is_enough(self) -> None:
        state, packing = start(lively_model()), Packing(10_000)
        found = logprobs_of(state.forward, [PAIRS], packing, PLAN, ALONE, group=2)
        key = answer_of(PAIRS[0])
        moved = {**found, key: float(np.nextafter(found[key], 0.0))}
        with pytest.raises(TrainingError):
            require_equal(state.forward, packing(PAIRS, 2), PLAN, Reference(moved))


class TestMismatched:
    def test_a_prompt_gets_the_answer_before_it_in_its_step(self) -> None:
        swap = Mismatched.of(PAIRS, [[2, 0, 5], [1, 3, 4, 6, 7]])
        made, prompt, answer = swap(PAIRS[0]), PAIRS[0], PAIRS[2]
        own, theirs = int(prompt.trained.argmax()), int(answer.trained.argmax())
        assert made.input_ids[:own].tolist() == prompt.input_ids[:own].tolist()
        length = len(made.input_ids) - own
        assert made.input_ids[own:].tolist() == answer.input_ids[theirs : theirs + length].tolist()
        assert answer_of(made) == answer_of(prompt)

    @given(seed=st.integers(0, 10_000))
    def test_none_is_longer_than_both_and_each_has_a_target(self, seed: int) -> None:
        rows = random_pairs(3, seed=seed)
        swap = Mismatched.of(rows, [list(range(6))])
        for place, row in enumerate(rows):
            made = swap(row)
            assert len(made.input_ids) <= max(len(row.input_ids), len(rows[place - 1].input_ids))
            assert made.trained[1:].any()

    def test_a_step_of_one_row_looks_into_the_first_step(self) -> None:
        swap = Mismatched.of(PAIRS, [[0, 1], [2]])
        assert swap.partner[answer_of(PAIRS[2])] == 0


class TestFile:
    def test_comes_back_bit_for_bit(self, tmp_path: Path) -> None:
        path = tmp_path / "reference.safetensors"
        save_reference(path, "abc", PARTS, 64)
        assert read_reference(path, "abc") == (PARTS, 64)

    def test_is_not_read_for_other_inputs(self, tmp_path: Path) -> None:
        path = tmp_path / "reference.safetensors"
        save_reference(path, "abc", PARTS, 64)
        assert read_reference(path, "abd") is None

    @pytest.mark.parametrize("keep", [0, 5, 40, -1])
    def test_damage_is_noticed(self, tmp_path: Path, keep: int) -> None:
        path = tmp_path / "reference.safetensors"
        save_reference(path, "abc", PARTS, 64)
        path.write_bytes(path.read_bytes()[:keep])
        assert read_reference(path, "abc") is None

    def test_one_that_is_not_there_is_none(self, tmp_path: Path) -> None:
        assert read_reference(tmp_path / "reference.safetensors", "abc") is None


def test_every_dropout_is_switched_off() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention_dropout = 0.2
            self.inner = nn.Dropout(0.5)

    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), Attention()).train()
    without_dropout(model)
    ones = torch.ones(2, 4)
    assert torch.equal(model[1](ones), ones)
    assert (model[2].attention_dropout, model[2].inner.p) == (0.0, 0.0)


def test_the_reference_of_a_batch_is_in_the_order_of_its_rows() -> None:
    logprobs = {answer_of(row): float(place) for place, row in enumerate(PAIRS)}
    batch = Packing(10_000, on_cpu=False)(PAIRS, 2)[0]
    found = Reference(logprobs, logprobs).of(batch, torch.device("cpu"))
    assert found.tolist() == [logprobs[answer_of(row)] for row in batch.examples]
    assert torch.equal(found, Reference({}, logprobs).of_mismatched(batch, torch.device("cpu")))
    with pytest.raises(KeyError):
        Reference({}).of(batch, torch.device("cpu"))
