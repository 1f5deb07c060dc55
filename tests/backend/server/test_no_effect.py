"""Fields that are taken and change nothing: backend/server/no_effect.py."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from backend.server import no_effect
from backend.server.errors import ApiError
from backend.server.parsing import StrictModel, parse
from backend.server.schemas import ChatRequest, CompletionRequest, EmbeddingRequest

SMALLEST: dict[type[Any], dict[str, Any]] = {
    ChatRequest: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    CompletionRequest: {"model": "m", "prompt": "hi"},
    EmbeddingRequest: {"model": "m", "input": "hi"},
}
DOCUMENT = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
TABLES = [each for _, each in inspect.getmembers(no_effect, inspect.isclass) if issubclass(each, StrictModel)]


def _read(model: type[Any], **fields: Any) -> Any:
    return parse(model, json.dumps({**SMALLEST[model], **fields}).encode())


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        *[(model, "user", "me") for model in SMALLEST],
        (ChatRequest, "safety_identifier", "a hash"),
        (ChatRequest, "metadata", {"a": "b"}),
        (ChatRequest, "store", False),
        (ChatRequest, "service_tier", "auto"),
        (ChatRequest, "service_tier", "default"),
        (ChatRequest, "prompt_cache_key", "k"),
        (ChatRequest, "prompt_cache_retention", "24h"),
        (ChatRequest, "modalities", ["text"]),
        (ChatRequest, "reasoning_effort", "low"),
        (ChatRequest, "verbosity", "high"),
        (CompletionRequest, "suffix", ""),
        (CompletionRequest, "best_of", 1),
    ],
)
def test_it_changes_nothing_but_itself(model: type[Any], name: str, value: Any) -> None:
    assert _read(model, **{name: value}).model_copy(update={name: None}) == _read(model)


@pytest.mark.parametrize(
    ("model", "name", "value", "why"),
    [
        (ChatRequest, "store", True, "store: It is true, and must be false. No answer is stored here."),
        (ChatRequest, "service_tier", "flex", "There is one queue for all."),
        (ChatRequest, "modalities", ["audio"], "Answers are text."),
        (ChatRequest, "user", 5, "Nobody is watched"),
        (ChatRequest, "metadata", {"a": 1}, "none are stored here"),
        (CompletionRequest, "suffix", "x", "not filled in"),
        (CompletionRequest, "best_of", 3, "No more answers are made than are given."),
        (CompletionRequest, "store", False, "Unsupported field: store. Remove it."),
    ],
)
def test_a_promise_is_refused_with_its_reason(model: type[Any], name: str, value: Any, why: str) -> None:
    with pytest.raises(ApiError) as caught:
        _read(model, **{name: value})

    assert why in caught.value.message
    assert str(caught.value.param).startswith(name)


@pytest.mark.parametrize("table", TABLES)
def test_each_has_its_reason_and_its_place_in_the_document(table: type[StrictModel]) -> None:
    reasons = [field.description or "" for field in table.model_fields.values()]

    assert [reason for reason in reasons if not reason.endswith(".")] == []
    assert [name for name in table.model_fields if name not in DOCUMENT] == []
    assert len(TABLES) > 4
