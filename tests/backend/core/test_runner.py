"""How a model is decoded, read off its class and configuration: backend/core/runner.py."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Gemma3TextConfig, LlamaConfig, Phi3Config

from backend.core.runner import Way, rope_border, way_of
from backend.core.tuning import make_trainable
from tests.backend.core.decoding import BORDER, decoder
from tests.backend.core.rows import LORA, lively_model

SHORT, LONG = [1.0] * 4, [2.0] * 4
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": SHORT,
    "long_factor": LONG,
    "factor": 2.0,
}


@pytest.mark.parametrize(
    ("kind", "cache", "in_pieces", "border"),
    [
        ("llama", "past_key_values", True, None),
        ("states", "cache_params", False, None),
        ("two ropes", "past_key_values", True, BORDER),
    ],
)
def test_the_way_is_read_off_the_model(kind: str, cache: str, in_pieces: bool, border: int | None) -> None:
    way = Way(cache, together=True, in_pieces=in_pieces, border=border)

    assert way == _unproved(kind)


def _unproved(kind: str) -> Way:
    return way_of(type(decoder(kind))(decoder(kind).config))


def test_an_adapter_is_decoded_as_its_base() -> None:
    model = lively_model("llama")
    tuned = make_trainable(lively_model("llama"), LORA, seed=0)

    assert way_of(tuned) == way_of(model)


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
def test_the_border_of_the_rotary_frequencies(config: Any, border: int | None) -> None:
    assert rope_border(config) == border


@pytest.mark.parametrize(
    ("together", "in_pieces", "length", "at_once"),
    [
        (True, True, 16, False),
        (True, True, 17, True),
        (True, False, 5, True),
        (False, True, 5, True),
    ],
)
def test_what_is_read_in_one_go(together: bool, in_pieces: bool, length: int, at_once: bool) -> None:
    assert Way("past_key_values", together, in_pieces, border=16).read_at_once(length) is at_once
