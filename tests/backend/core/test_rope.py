"""Positions that depend on the length of a row come from that row alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, Phi3Config, PreTrainedModel

from backend.core.rope import forget_lengths, rope_border, steady_length
from tests.backend.core.odd_models import dynamic_rope, long_rope
from tests.tiny import tiny_model

SHORT, LONG = [1.0] * 4, [2.0] * 4
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": SHORT,
    "long_factor": LONG,
    "factor": 2.0,
}


@pytest.mark.parametrize(
    ("build", "expected"),
    [(lambda: long_rope(16), 16), (lambda: dynamic_rope(24), 24), (tiny_model, None)],
)
def test_the_border_is_where_positions_begin_to_depend_on_the_length(
    build: Callable[[], PreTrainedModel], expected: int | None
) -> None:
    assert steady_length(build()) == expected


@pytest.mark.parametrize("build", [long_rope, dynamic_rope])
@torch.no_grad()
def test_a_row_is_what_it_is_whatever_was_read_before(build: Callable[[], PreTrainedModel]) -> None:
    ids = torch.arange(3, 63)[None]
    alone = {length: build()(ids[:, :length]).logits for length in (10, 30, 60)}
    model = build()

    forget_lengths(model)

    for length in (60, 30, 10, 30):
        torch.testing.assert_close(model(ids[:, :length]).logits, alone[length])


def test_other_models_stay_as_they_are() -> None:
    model = tiny_model()
    forget_lengths(model)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    ("config", "border"),
    [
        (LlamaConfig(), None),
        (LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}), None),
        (
            Phi3Config(
                hidden_size=32,
                num_attention_heads=4,
                max_position_embeddings=128,
                original_max_position_embeddings=64,
                rope_parameters=LONGROPE | {"original_max_position_embeddings": 64},
                pad_token_id=0,
            ),
            64,
        ),
        (Gemma3TextConfig(), None),
    ],
    ids=["plain", "dynamic", "longrope", "a rope a kind of layer"],
)
def test_the_border_is_read_off_the_configuration(config: Any, border: int | None) -> None:
    assert rope_border(config) == border
