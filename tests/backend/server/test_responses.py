"""What the server sends against the documented shapes: backend/server/responses.py."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from starlette.requests import Request

from backend.inference.decoding import NewToken
from backend.inference.model_source import find_model
from backend.inference.prompting import PromptRenderer
from backend.server.app import _health
from backend.server.engine import Engine
from backend.server.formatting import ChatFormat, usage
from backend.server.jobs import TokenDelta
from backend.server.openapi import RESPONSES, openapi
from backend.server.service import Service
from tests.backend.server.conftest import QUESTION, Server
from tests.eventually import eventually
from tests.tiny import tiny_model

COMPONENTS = openapi("1")["components"]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
VIEW, COMPARE = "/tunesmith/v1/token-view", "/tunesmith/v1/compare"
ASKED: dict[str, Any] = {"messages": QUESTION, "temperature": 0}
CONTINUED: dict[str, Any] = {"prompt": "hello world", "temperature": 0, "max_tokens": 4}
WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}

WHOLE: list[tuple[str, str, dict[str, Any]]] = [
    ("ChatCompletion", CHAT, ASKED),
    ("ChatCompletion", CHAT, {**ASKED, "logprobs": True, "top_logprobs": 2, "n": 2, "max_tokens": 1}),
    ("Completion", TEXT, CONTINUED),
    ("Completion", TEXT, {**CONTINUED, "logprobs": 2, "n": 2}),
    ("Completion", TEXT, {**CONTINUED, "max_tokens": 0, "echo": True}),
    ("Embeddings", "/v1/embeddings", {"input": ["hello", "world"]}),
    ("Embeddings", "/v1/embeddings", {"input": "hello", "encoding_format": "base64"}),
    ("TokenView", VIEW, {"messages": QUESTION}),
    ("TokenView", VIEW, {"prompt": "test input", "answer": "expected output", "top": 0}),
    ("Comparison", COMPARE, {"prompt": "test input", "max_tokens": 4}),
    ("Comparison", COMPARE, {"prompt": "test input", "adapter_strength": 0, "max_tokens": 2}),
]
STREAMED: list[tuple[str, str, dict[str, Any]]] = [
    ("ChatCompletionChunk", CHAT, {**ASKED, "stream": True}),
    ("ChatCompletionChunk", CHAT, {**ASKED, **WITH_USAGE, "logprobs": True, "top_logprobs": 2, "n": 2}),
    ("CompletionChunk", TEXT, {**CONTINUED, "stream": True, "echo": True}),
    ("CompletionChunk", TEXT, {**CONTINUED, **WITH_USAGE, "logprobs": 2}),
    ("CompletionChunk", TEXT, {**CONTINUED, **WITH_USAGE, "max_tokens": 0}),
]
FETCHED = [
    ("Models", "/v1/models"),
    ("Model", "/v1/models/base"),
    ("Model", "/v1/models/{run}@10"),
    ("Health", "/health"),
    ("Error", "/v1/models/nothing"),
    ("Error", "/nothing"),
]


def _validate(name: str, value: object) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": COMPONENTS}
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(("name", "path", "fields"), WHOLE)
def test_a_whole_response_is_as_documented(
    server: Server, name: str, path: str, fields: dict[str, Any]
) -> None:
    reply = server.ask("POST", path, {"model": server.run, **fields})

    assert reply.status == 200
    _validate(name, reply.json)


@pytest.mark.parametrize(("name", "path", "fields"), STREAMED)
def test_every_chunk_of_a_stream_is_as_documented(
    server: Server, name: str, path: str, fields: dict[str, Any]
) -> None:
    reply = server.ask("POST", path, {"model": server.run, **fields})

    *events, end = reply.text.strip().split("\n\n")
    assert end == "data: [DONE]"
    assert events
    for event in events:
        _validate(name, json.loads(event.removeprefix("data: ")))


@pytest.mark.parametrize(("name", "path"), FETCHED)
def test_what_is_fetched_is_as_documented(server: Server, name: str, path: str) -> None:
    _validate(name, server.ask("GET", path.format(run=server.run)).json)


@pytest.mark.parametrize("path", [CHAT, TEXT, "/v1/embeddings", VIEW, COMPARE])
@pytest.mark.parametrize("body", [b"", b"[]", {"model": "nothing"}, {"model": 5}, {"foo": "bar"}])
def test_a_refusal_is_as_documented(server: Server, path: str, body: Any) -> None:
    reply = server.ask("POST", path, body)

    assert reply.status == 400
    _validate("Error", reply.json)


def test_health_of_a_dead_engine_is_as_documented(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(_: Engine) -> None:
        raise SystemExit

    monkeypatch.setattr(Engine, "_turn", end)
    service.engine._queue_task(lambda: None)
    eventually(lambda: not service.engine.is_alive)

    response = asyncio.run(_health(service, Request({"type": "http"})))

    assert response.status_code == 503
    _validate("Health", json.loads(bytes(response.body)))


@pytest.mark.parametrize("text", ["", "Let me see. "])
def test_tool_calls_are_as_documented(tiny_folder: Path, text: str) -> None:
    renderer = PromptRenderer(find_model(tiny_folder), tiny_model(vocab_size=400))
    called = text + '<tool_call>{"name": "weigh", "arguments": {"food": "ham"}}</tool_call>'
    deltas = [
        TokenDelta(0, called, NewToken(0, 70, -0.5, ""), ""),
        TokenDelta(0, "", NewToken(0, 71, -0.5, "stop"), "stop"),
    ]

    whole = ChatFormat("m", renderer, logprobs=False, tools=True).response([deltas], usage(1, 2))
    chunk = ChatFormat("m", renderer, logprobs=False, tools=True).delta_chunk(deltas[0])

    assert chunk
    assert len(chunk["choices"][0]["delta"]["tool_calls"]) == 1
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    _validate("ChatCompletion", whole)
    _validate("ChatCompletionChunk", chunk)


def test_a_field_that_is_not_documented_is_noticed() -> None:
    with pytest.raises(jsonschema.ValidationError):
        _validate("Error", {"error": {"message": "a", "type": "b", "param": None, "code": "c", "more": 1}})


def test_every_documented_response_is_tried_here() -> None:
    assert {case[0] for case in (*WHOLE, *STREAMED, *FETCHED)} == {model.__name__ for model in RESPONSES}
