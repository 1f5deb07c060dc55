from __future__ import annotations

import logging

import pytest
import torch

from backend.core.engine.engine import Engine
from backend.inference import engines
from backend.inference.engines import add_engine, disagreement, engine_of
from tests.backend.core.engine.models import KINDS, model_of


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


def test_a_model_it_cannot_run_stays_with_transformers_and_the_reason_is_told() -> None:
    model = model_of("gpt2")
    assert "none of the families" in add_engine(model, "exact")
    assert engine_of(model) is None


def test_a_model_that_says_something_else_stays_with_transformers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of("llama")
    plain = type(model).forward

    def scaled(self: object, *args: object, **kwargs: object) -> object:
        output = plain(self, *args, **kwargs)
        output.logits = torch.tanh(output.logits)
        return output

    monkeypatch.setattr(type(model), "forward", scaled)
    with caplog.at_level(logging.WARNING):
        assert "differ from those of transformers" in add_engine(model, "fast")
    assert engine_of(model) is None
    assert len(caplog.records) == 1


def test_what_is_no_number_proves_nothing() -> None:
    model = model_of("llama")
    model.model.norm.weight.data[0] = torch.nan
    assert "nan" in add_engine(model, "exact")
