"""The document against the routes and the answers themselves: backend/server/openapi.py."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest

from backend.server.openapi import openapi
from tests.backend.server.conftest import QUESTION, Server

DOCUMENT = openapi("1")
TEXT = {"prompt": "hello world", "temperature": 0, "max_tokens": 4}


def _schema(path: str, method: str = "post") -> dict[str, Any]:
    answer = DOCUMENT["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
    return {**answer, "components": DOCUMENT["components"]}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": QUESTION, "logprobs": True, "top_logprobs": 1}),
        ("/v1/chat/completions", {"messages": QUESTION}),
        ("/v1/completions", TEXT),
        ("/v1/completions", {**TEXT, "logprobs": 2}),
        ("/v1/embeddings", {"input": ["hello", "world"]}),
        ("/tunesmith/v1/token-view", {"messages": QUESTION}),
        ("/tunesmith/v1/compare", {"prompt": "test input", "max_tokens": 4}),
    ],
)
def test_answers_are_as_it_says(server: Server, path: str, fields: dict[str, Any]) -> None:
    answered = server.ask("POST", path, {"model": server.run, **fields})

    assert answered.status == 200
    jsonschema.validate(answered.json, _schema(path))


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/{model}", "/health"])
def test_what_is_looked_up_is_as_it_says(server: Server, path: str) -> None:
    jsonschema.validate(server.ask("GET", path.format(model="base")).json, _schema(path, "get"))


def test_it_is_served_and_every_path_in_it_answers(server: Server) -> None:
    document = server.ask("GET", "/openapi.json").json

    assert list(document["paths"]) == list(DOCUMENT["paths"])
    for path, methods in document["paths"].items():
        assert all(
            server.ask(name.upper(), path).status not in {404, 405} for name in methods if "{" not in path
        )


def test_every_reference_leads_somewhere() -> None:
    names = set(re.findall(r"#/components/schemas/(\w+)", str(DOCUMENT)))

    assert names <= set(DOCUMENT["components"]["schemas"])
    assert {
        "ChatRequest",
        "CompletionRequest",
        "EmbeddingRequest",
        "TokenViewRequest",
        "CompareRequest",
    } <= names
