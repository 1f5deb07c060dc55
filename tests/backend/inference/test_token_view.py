"""A look inside an answer. The server's looks show the same; see tests/backend/server."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from backend.errors import InferenceError
from backend.inference.token_view import MAX_ANSWER_TOKENS, TOP, finite, token_text, view_tokens
from backend.inferencer import Inferencer
from backend.run.folder import RunDir


@pytest.fixture(scope="module")
def model(trained: RunDir) -> Iterator[Inferencer]:
    with Inferencer(trained) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def look(model: Inferencer) -> dict[str, Any]:
    return view_tokens(model, "food pork", max_new_tokens=6)


def test_the_prompt_is_what_the_model_reads(model: Inferencer, look: dict[str, Any]) -> None:
    shown = look["prompt"]
    assert [token["id"] for token in shown["tokens"]] == model.render("food pork")
    assert "".join(token["text"] for token in shown["tokens"]) == shown["text"]
    assert shown["text"].endswith("<|im_start|>assistant\n")


def test_probabilities_are_the_models_own(model: Inferencer, look: dict[str, Any]) -> None:
    tokens = look["tuned"]["tokens"]
    ids = torch.tensor([model.render("food pork") + [token["id"] for token in tokens]])
    with torch.inference_mode():
        logprobs = model.model(ids).logits[0].log_softmax(-1)[-len(tokens) - 1 :]
    wanted = [float(row[token["id"]]) for row, token in zip(logprobs, tokens, strict=False)]
    assert [token["logprob"] for token in tokens] == pytest.approx(wanted, abs=1e-5)
    assert {len(token["top"]) for token in tokens} == {TOP}


def test_both_answer_as_they_would_alone(model: Inferencer, trained: RunDir, look: dict[str, Any]) -> None:
    assert look["tuned"]["text"] == model.infer("food pork") == "meat"
    with Inferencer(trained, base=True) as base:
        assert look["base"]["text"] == base.infer("food pork", max_new_tokens=6)
        assert "answer" in view_tokens(base, "food pork", max_new_tokens=2)
    assert look["first_difference"] == 0
    places = look["divergence"]
    assert [place["tuned_logprob"] for place in places] == [t["logprob"] for t in look["tuned"]["tokens"]]
    assert look["mean_kl"] == pytest.approx(sum(place["kl"] for place in places) / len(places))
    assert look["mean_kl"] > 1


def test_the_adapter_is_back_afterwards(model: Inferencer) -> None:
    with pytest.raises(InferenceError), model.as_base():
        model.infer("")
    with model.as_base():
        assert not model.has_adapter
    assert model.has_adapter


def test_an_answer_too_long_to_be_held_is_refused(model: Inferencer) -> None:
    with pytest.raises(InferenceError) as caught:
        view_tokens(model, "a", max_new_tokens=MAX_ANSWER_TOKENS + 1)
    assert caught.value.code == "bad-sampling"


def test_special_tokens_go_by_their_name(model: Inferencer) -> None:
    assert token_text(model.renderer, min(model.renderer.stop_ids)) == "<|im_end|>"


def test_numbers_that_json_can_hold() -> None:
    assert (finite(-math.inf), finite(-0.5)) == (-9999.0, -0.5)
