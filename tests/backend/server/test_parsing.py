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
