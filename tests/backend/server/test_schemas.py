"""What a client may ask: backend/server/schemas.py. The table of bad fields is tried over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.constraint import Constraint
from backend.server.errors import ApiError
from backend.server.schemas import (
    MAX_DEPTH,
    ChatMessage,
    ChatRequest,
    CompareRequest,
    CompletionRequest,
    TokenViewRequest,
    parse,
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


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"foo": 1}, "foo", "unsupported_field"),
        (
            {"messages": [{"role": "user", "content": "x", "audio": {}}]},
            "messages.0.audio",
            "unsupported_field",
        ),
        ({"messages": [{"content": "x"}]}, "messages.0.role", "missing_field"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "bad_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_field"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, None, "bad_value"),
        ({"structured_outputs": {"choice": ["a"]}, "response_format": {"type": "text"}}, None, "bad_value"),
    ],
)
def test_the_field_at_fault_is_named_as_the_client_wrote_it(
    fields: dict[str, Any], param: str | None, code: str
) -> None:
    with pytest.raises(ApiError) as caught:
        _chat(**fields)

    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_no_body_at_all_is_anything_but_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse(CompletionRequest, body)

    assert caught.value.status == 400


@pytest.mark.parametrize(("levels", "fits"), [(MAX_DEPTH - 3, True), (MAX_DEPTH, False)])
def test_depth_is_bounded(levels: int, fits: bool) -> None:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    body = json.dumps({**HELLO, "structured_outputs": {"json": schema}}).encode()
    outcomes = {True: lambda: parse(ChatRequest, body).model == "m", False: lambda: _code(body) == "too_deep"}

    assert outcomes[fits]()


def _code(body: bytes) -> str:
    with pytest.raises(ApiError) as caught:
        parse(ChatRequest, body)
    return caught.value.code


@pytest.mark.parametrize("model", [TokenViewRequest, CompareRequest])
@pytest.mark.parametrize("fields", [{}, {"prompt": "a", **HELLO}, {"prompt": ""}])
def test_a_look_wants_one_prompt(model: type[Any], fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError):
        parse(model, json.dumps({"model": "m", **fields}).encode())


def test_a_prompt_is_a_users_message() -> None:
    look = parse(TokenViewRequest, b'{"model": "m", "prompt": "hi"}')

    assert look.conversation() == HELLO["messages"]
    assert look.temperature == 0
