"""Texts as vectors over HTTP: backend/server/embeddings.py."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from backend.server import embeddings
from tests.backend.server.conftest import Server


def ask(server: Server, **fields: Any) -> Any:
    return server.ask("POST", "/v1/embeddings", {"model": server.run, **fields})


def test_vectors_in_order_and_in_either_encoding(server: Server) -> None:
    many = ask(server, input=["food pork", "hello world"]).json
    one = ask(server, input="hello world", encoding_format="base64").json
    vectors = [each["embedding"] for each in many["data"]]
    assert [each["index"] for each in many["data"]] == [0, 1]
    assert sum(value * value for value in vectors[1]) == pytest.approx(1)
    assert vectors[0] != vectors[1]
    sent = base64.b64decode(one["data"][0]["embedding"])
    assert struct.unpack(f"<{len(vectors[1])}f", sent) == pytest.approx(vectors[1])
    assert many["usage"]["prompt_tokens"] == many["usage"]["total_tokens"] > one["usage"]["total_tokens"] > 0


def test_another_model_has_other_vectors(server: Server) -> None:
    tuned, base = (
        ask(server, model=name, input="food pork").json["data"][0]["embedding"]
        for name in (server.run, "base")
    )
    assert tuned != base


def test_a_text_that_is_too_long_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = ask(server, input=["a", "word " * 600]).error
    assert (refused["code"], refused["param"]) == ("prompt_too_long", "input")
    monkeypatch.setattr(embeddings, "MAX_TEXT_TOKENS", 3)
    answered = ask(server, input=["a", "one two three four"])
    assert (answered.status, answered.error["param"]) == (400, "input.1")
    assert ask(server, input="one two three four").error["param"] == "input"
