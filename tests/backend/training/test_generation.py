"""How a model in training generates: proved once, by the engine where it can, else in lanes."""

from __future__ import annotations

import pytest

from backend.errors import ModelError
from backend.inference import decode_proof, engines
from backend.inference.decoding import for_inference
from backend.training.generation import decoding_lanes, prove_generation
from tests.backend.core.rows import PLAN, lively_model, start


def test_the_engine_decodes_in_one_lane_of_all_threads_and_transformers_in_several() -> None:
    forward = start(lively_model()).forward
    with for_inference(forward.model), decoding_lanes(forward, PLAN) as lanes:
        assert lanes.count == PLAN.lanes
    prove_generation(forward.model)
    with for_inference(forward.model), decoding_lanes(forward, PLAN) as lanes:
        assert lanes.count == 1


def test_a_model_that_neither_can_decode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_proof, "_is_right", lambda *_: False)
    monkeypatch.setattr(engines, "disagreement", lambda *_: 1e9)
    with pytest.raises(ModelError) as refused:
        prove_generation(start(lively_model()).forward.model)
    assert refused.value.code == "cannot-generate"
