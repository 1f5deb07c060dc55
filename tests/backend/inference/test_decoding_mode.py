"""How a model is decoded, read off its class and configuration: backend/inference/decoding_mode.py."""

from __future__ import annotations

import pytest

from backend.inference.decoding_mode import DecodingMode, decoding_mode
from backend.training.tuning import make_trainable
from tests.backend.core.decoding import BORDER, decoder
from tests.backend.core.rows import LORA, lively_model


@pytest.mark.parametrize(
    ("kind", "cache", "chunked_prefill", "rope_border"),
    [
        ("llama", "past_key_values", True, None),
        ("states", "cache_params", False, None),
        ("two ropes", "past_key_values", True, BORDER),
    ],
)
def test_the_mode_is_read_off_the_model(
    kind: str, cache: str, chunked_prefill: bool, rope_border: int | None
) -> None:
    mode = DecodingMode(cache, batched=True, chunked_prefill=chunked_prefill, rope_border=rope_border)

    assert mode == _unproved(kind)


def _unproved(kind: str) -> DecodingMode:
    return decoding_mode(type(decoder(kind))(decoder(kind).config))


def test_an_adapter_is_decoded_as_its_base() -> None:
    model = lively_model("llama")
    tuned = make_trainable(lively_model("llama"), LORA, seed=0)

    assert decoding_mode(tuned) == decoding_mode(model)


@pytest.mark.parametrize(
    ("together", "chunked_prefill", "length", "one_pass"),
    [
        (True, True, 16, False),
        (True, True, 17, True),
        (True, False, 5, True),
        (False, True, 5, True),
    ],
)
def test_what_is_read_in_one_go(together: bool, chunked_prefill: bool, length: int, one_pass: bool) -> None:
    assert (
        DecodingMode("past_key_values", together, chunked_prefill, rope_border=16).needs_one_pass(length)
        is one_pass
    )
