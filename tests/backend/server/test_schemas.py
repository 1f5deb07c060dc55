"""What a client may ask: backend/server/schemas.py. The table of bad fields is tried over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backend.core.constraint import Constraint
from backend.server.errors import ApiError
from backend.server.parsing import parse
from backend.server.schemas import (
    ChatMessage,
    ChatRequest,
    CompareRequest,
    EmbeddingRequest,
    TokenViewRequest,
)

HELLO = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def _chat(**fields: Any) -> ChatRequest:
    request: ChatRequest = parse(ChatRequest, json.dumps({**HELLO, **fields}).encode())
    return request


def test_what_is_left_out_is_what_openai_says() -> None:
    request = _chat()

    assert (request.temperature, request.top_p, request.n, request.stream) == (1.0, 1.0, 1, False)
    assert (request.limit, request.stops, request.constraint(), request.plain_tools) == (None, (), None, None)


def test_whole_numbers_are_numbers() -> None:
    assert _chat(temperature=1, adapter_strength=2).temperature == 1.0


def test_sampling_is_what_was_asked() -> None:
    wanted = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "repetition_penalty": 1.1}
    wanted |= {"presence_penalty": 0.2, "frequency_penalty": -0.3}

    sampling = _chat(**wanted).sampling(seed=7, max_new_tokens=9, top_logprobs=2)

    assert {name: getattr(sampling, name) for name in wanted} == wanted
    assert (sampling.seed, sampling.max_new_tokens, sampling.top_logprobs) == (7, 9, 2)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"structured_outputs": {"choice": ["a", "b"]}}, Constraint.choice("a", "b")),
        ({"structured_outputs": {"regex": "x+"}}, Constraint.regex("x+")),
        ({"structured_outputs": {"json": {"type": "null"}}}, Constraint.json({"type": "null"})),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint.json()),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "null"}},
                }
            },
            Constraint.json({"type": "null"}),
        ),
    ],
)
def test_forms(fields: dict[str, Any], expected: Constraint | None) -> None:
    assert _chat(**fields).constraint() == expected


def test_messages_as_templates_want_them() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    plain = ChatMessage.model_validate({"role": "assistant", "tool_calls": [call]}).plain()
    odd = {**call, "function": {"name": "f", "arguments": "not json"}}

    assert plain["content"] == ""
    assert plain["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert ChatMessage.model_validate({"role": "assistant", "tool_calls": [odd]}).plain()["tool_calls"][0][
        "function"
    ]["arguments"] == ("not json")
    assert ChatMessage(role="user", content="hi").plain() == {"role": "user", "content": "hi"}


@pytest.mark.parametrize("model", [TokenViewRequest, CompareRequest])
@pytest.mark.parametrize("fields", [{}, {"prompt": "a", **HELLO}, {"prompt": ""}])
def test_a_look_wants_one_prompt(model: type[Any], fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError):
        parse(model, json.dumps({"model": "m", **fields}).encode())


def test_tools_are_shown_unless_none_may_be_called() -> None:
    tool = {"type": "function", "function": {"name": "weigh"}}
    assert _chat(tools=[tool]).plain_tools == [tool]
    assert _chat(tools=[tool], tool_choice="none").plain_tools is None
    with pytest.raises(ApiError, match="tool_choice"):
        _chat(tools=[tool], tool_choice="required")


@pytest.mark.parametrize("given", ["a", ["a"]])
def test_texts_are_one_or_many(given: Any) -> None:
    assert parse(EmbeddingRequest, json.dumps({"model": "m", "input": given}).encode()).texts == ["a"]


@pytest.mark.parametrize("given", ["", [], [""], [1, 2], [[1]], ["a"] * 129, None])
def test_texts_that_are_none(given: Any) -> None:
    with pytest.raises(ApiError) as caught:
        parse(EmbeddingRequest, json.dumps({"model": "m", "input": given}).encode())
    assert str(caught.value.param).startswith("input")


def test_a_prompt_is_a_users_message() -> None:
    look = parse(TokenViewRequest, b'{"model": "m", "prompt": "hi"}')

    assert look.conversation() == HELLO["messages"]
    assert look.temperature == 0
