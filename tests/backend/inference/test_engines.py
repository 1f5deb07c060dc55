from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backend.core.engine.engine import Engine
from backend.core.engine.forward import Reading
from backend.core.engine.seat import Seat
from backend.inference import engines
from backend.inference.engines import (
    add_engine,
    add_engine_of_trained,
    disagreement,
    engine_of,
    with_current_weights,
)
from tests.backend.core.engine.models import KINDS, adapted, lora_parameters, model_of
from tests.logs import Logged


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_is_proved(kind: str) -> None:
    model = model_of(kind)
    assert engine_of(model) is None
    assert add_engine(model, "exact") == ""
    assert engine_of(model) is not None
    assert disagreement(model, Engine(model)) < 1e-4


@pytest.mark.parametrize("precision", engines.PRECISIONS)
def test_weights_in_bfloat16_and_in_8_bits_agree_more_loosely(precision: str) -> None:
    assert add_engine(model_of("llama").bfloat16(), precision) == ""


@torch.inference_mode()
def test_a_model_that_trains_is_decoded_inside_the_block_alone_and_as_it_is_then() -> None:
    model, reading = adapted("llama"), [1, 2, 3]
    assert add_engine_of_trained(model) == ""
    assert engine_of(model) is None
    for part in lora_parameters(model):
        part.data.mul_(1.5)
    with with_current_weights(model):
        engine = engine_of(model)
        assert engine is not None
        found = engine.read([Reading(Seat(engine.block), reading)])[0]
    torch.testing.assert_close(found, model(torch.tensor([reading])).logits[0, -1], rtol=1e-4, atol=1e-4)
    assert engine_of(model) is None


def test_what_agreed_before_is_believed_about_the_same_model_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNESMITH_PROOFS", raising=False)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    assert add_engine(model_of("llama"), "exact", lambda: {"model": "a"}) == ""
    monkeypatch.setattr(engines, "disagreement", lambda *_: 1e9)
    assert add_engine(model_of("llama"), "exact", lambda: {"model": "a"}) == ""
    assert add_engine(model_of("llama"), "exact", lambda: {"model": "b"}) != ""
    assert add_engine(model_of("llama"), "exact", lambda: {"model": "b"}) != ""
    assert add_engine(model_of("llama"), "fast", lambda: {"model": "a"}) != ""
    assert add_engine(model_of("llama"), "exact") != ""


def test_a_model_that_trains_without_an_engine_stays_with_transformers() -> None:
    model = model_of("gpt2")
    assert "none of the families" in add_engine_of_trained(model)
    with with_current_weights(model):
        assert engine_of(model) is None


def test_a_model_it_cannot_run_stays_with_transformers_and_the_reason_is_told() -> None:
    model = model_of("gpt2")
    assert "none of the families" in add_engine(model, "exact")
    assert engine_of(model) is None


def test_a_model_that_says_something_else_stays_with_transformers(
    monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    model = model_of("llama")
    plain = type(model).forward

    def scaled(self: object, *args: object, **kwargs: object) -> object:
        output = plain(self, *args, **kwargs)
        output.logits = torch.tanh(output.logits)
        return output

    monkeypatch.setattr(type(model), "forward", scaled)
    assert "differ from those of transformers" in add_engine(model, "fast")
    assert engine_of(model) is None
    assert len(logged.records) == 1


def test_what_is_no_number_proves_nothing() -> None:
    model = model_of("llama")
    model.model.norm.weight.data[0] = torch.nan
    assert "nan" in add_engine(model, "exact")
