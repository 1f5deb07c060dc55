"""How a model is decoded, read off its class and configuration: backend/inference/runner.py."""

from __future__ import annotations

import pytest

from backend.inference.runner import Way, way_of
from backend.training.tuning import make_trainable
from tests.backend.core.decoding import BORDER, decoder
from tests.backend.core.rows import LORA, lively_model


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
