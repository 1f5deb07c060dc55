"""Both runners behind the one protocol: backend/inference/runner.py and engine_runner.py."""

from __future__ import annotations

from functools import partial
from unittest.mock import create_autospec

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM

from backend.core.engine.engine import Engine
from backend.inference.decoding_mode import DecodingMode
from backend.inference.engine_runner import EngineRunner
from backend.inference.runner import ModelRunner, Runner, prefill
from tests.backend.core.decoding import BORDER
from tests.backend.core.engine.models import model_of
from tests.locks import Meeting, both

PROMPTS = [[5, 6, 7, 8], [9, 10]]


def _by_row(runner: Runner) -> dict[int, torch.Tensor]:
    logits = runner.logits()
    return {row: logits[slot] for slot, row in enumerate(runner.slots) if row is not None}


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@torch.inference_mode()
def test_both_compute_the_same_rows(kind: str) -> None:
    model = model_of(kind)
    runners: list[Runner] = [
        ModelRunner(model, PROMPTS, [0, 1]),
        EngineRunner(Engine(model), PROMPTS, [0, 1]),
    ]
    first, second = (_by_row(runner) for runner in runners)
    for runner in runners:
        runner.remove({0})
        runner.advance({1: 3})
        assert runner.active == [1]
    third, fourth = (_by_row(runner) for runner in runners)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(third, fourth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("border", "met"), [(BORDER, False), (None, True)])
def test_a_model_that_swaps_its_rotary_frequencies_is_called_by_one_thread_at_a_time(
    border: int | None, met: bool
) -> None:
    meeting = Meeting(20 if met else 0.2)
    model = create_autospec(LlamaForCausalLM, instance=True, side_effect=meeting.wait)
    model.parameters.side_effect = lambda: iter([torch.zeros(1)])
    mode = DecodingMode("past_key_values", batched=True, chunked_prefill=True, rope_border=border)
    read = partial(prefill, model, DynamicCache(), [5, 6], mode)
    both(read, read)
    assert meeting.happened == met
    assert model.call_count == 2
