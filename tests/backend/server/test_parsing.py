"""Bodies that are refused, and by what name: backend/server/parsing.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.server.errors import ApiError
from backend.server.parsing import MAX_DEPTH, parse
from backend.server.schemas import ChatRequest, CompletionRequest

HELLO = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def _chat(**fields: Any) -> ChatRequest:
    return parse(ChatRequest, json.dumps({**HELLO, **fields}).encode())


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"foo": 1}, "foo", "unsupported_field"),
        (
            {"messages": [{"role": "user", "content": "x", "audio": {"id": "a"}}]},
            "messages.0.audio",
            "unsupported_field",
        ),
        ({"messages": [{"content": "x"}]}, "messages.0.role", "missing_field"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "bad_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_field"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content.0.type",
            "bad_value",
        ),
        ({"messages": [{"role": "user"}]}, "messages.0", "bad_value"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function", "bad_value"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", "bad_value"),
        ({"tool_choice": 5}, "tool_choice", "bad_value"),
        ({"stop": [5]}, "stop.0", "bad_value"),
        ({"stop": ["a"] * 17}, "stop", "bad_value"),
        ({"store": True}, "store", "bad_value"),
        ({"structured_outputs": {"choice": ["a"]}, "response_format": {"type": "text"}}, None, "bad_value"),
    ],
)
def test_the_field_at_fault_is_named_as_the_client_wrote_it(
    fields: dict[str, Any], param: str | None, code: str
) -> None:
    with pytest.raises(ApiError) as caught:
        _chat(**fields)

    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_tokens": 0}, "max_tokens: It is 0, and must be at least 1."),
        ({"temperature": 3}, "temperature: It is 3, and must be at most 2.0."),
        ({"top_p": 0}, "top_p: It is 0, and must be above 0.0."),
        ({"seed": 2**63}, "seed: It is 9223372036854775808, and must be below 9223372036854775808."),
        ({"max_tokens": "8"}, 'max_tokens: It is "8", and must be a whole number.'),
        ({"stream": "yes"}, 'stream: It is "yes", and must be true or false.'),
        ({"messages": "hi"}, 'messages: It is "hi", and must be a list.'),
        ({"stop": ""}, "stop: It must not be empty."),
        ({"stop": ["a"] * 17}, "stop: It has 17 entries, and may have at most 16."),
        ({"stop": "a" * 257}, "stop: It has 257 characters, and may have at most 256."),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content.0.type: It is \"image_url\", and must be 'text'.",
        ),
        (
            {"response_format": {"type": "xml"}},
            "response_format: It is \"xml\", and must be 'text', 'json_object', 'json_schema'.",
        ),
        ({"temperature": "x" * 1000}, f'temperature: It is "{"x" * 39}…, and must be a number.'),
    ],
    ids=str,
)
def test_a_value_that_is_refused_is_told_in_plain_words(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiError) as caught:
        _chat(**fields)

    assert caught.value.message == said


def test_a_body_that_is_no_object_is_told_without_names_of_ours() -> None:
    with pytest.raises(ApiError) as caught:
        parse(ChatRequest, b"[]")

    assert caught.value.message == "The body: It is [], and must be an object."


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
