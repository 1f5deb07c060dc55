"""Which bodies are read and which refused, in the schema too: backend/server/parsing.py."""

from __future__ import annotations

import json
from functools import cache
from typing import Annotated, Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict, Field, ValidationError

from backend.inference.constraint import Constraint
from backend.server.errors import ApiError
from backend.server.parsing import MAX_DEPTH, StrictModel, exactly_one, parse
from backend.server.schemas import (
    ChatRequest,
    CompareRequest,
    CompletionRequest,
    EmbeddingRequest,
    TokenViewRequest,
)

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


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


TEXT = {"model": "m", "prompt": "hi"}
SMALLEST: list[tuple[type[StrictModel], dict[str, Any]]] = [
    (ChatRequest, HELLO),
    (CompletionRequest, TEXT),
    (EmbeddingRequest, {"model": "m", "input": "hi"}),
    (TokenViewRequest, HELLO),
    (CompareRequest, TEXT),
]


class Inner(StrictModel):
    size: int = 5


class Outer(StrictModel):
    model_config = ConfigDict(json_schema_extra=exactly_one("left", "right"))

    left: str | None = None
    right: Annotated[list[int], Field(default_factory=list)]
    inner: Inner | None = None


@cache
def _validator(model: type[StrictModel]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(model.model_json_schema())


@pytest.mark.parametrize(("model", "smallest"), SMALLEST)
@given(data=st.data())
def test_a_field_that_is_null_or_empty_is_as_if_left_out(
    model: type[StrictModel], smallest: dict[str, Any], data: st.DataObject
) -> None:
    optional = sorted((model.model_fields.keys() | {"logit_bias", "anything"}) - smallest.keys())
    lists = {"stop", "tools", "logit_bias", "anything"}
    nulls = {
        name: data.draw(st.sampled_from([None, []] if name in lists else [None]))
        for name in data.draw(st.lists(st.sampled_from(optional)))
    }

    read = model.model_validate({**nulls, **smallest})

    assert read == model.model_validate(smallest)
    assert read.model_fields_set == smallest.keys()
    assert _validator(model).is_valid({**nulls, **smallest})


@pytest.mark.parametrize("name", ["model", "messages"])
def test_what_is_required_may_not_be_null(name: str) -> None:
    with pytest.raises(ValidationError):
        ChatRequest.model_validate({**HELLO, name: None})
    assert not _validator(ChatRequest).is_valid({**HELLO, name: None})


@pytest.mark.parametrize("nothing", [[], {}])
def test_what_is_required_may_not_be_empty(nothing: object) -> None:
    with pytest.raises(ValidationError):
        ChatRequest.model_validate({**HELLO, "messages": nothing})


@pytest.mark.parametrize(
    "form",
    [
        {"structured_outputs": {"json": {}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}},
    ],
)
def test_an_empty_schema_is_any_json_and_not_nothing(form: dict[str, Any]) -> None:
    assert ChatRequest.model_validate({**HELLO, **form}).constraint() == Constraint.json({})
    assert _validator(ChatRequest).is_valid({**HELLO, **form})


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({"left": "a"}, True),
        ({"left": "a", "right": None, "inner": {"size": None}}, True),
        ({"right": [1], "left": None, "foo": None}, True),
        ({"left": "a", "right": [], "foo": {}, "inner": {}, "bar": []}, True),
        ({"left": "a", "inner": []}, False),
        ({"left": [], "right": [1]}, False),
        ({"left": "a", "foo": [None]}, False),
        ({"left": "a", "foo": {"a": None}}, False),
        ({}, False),
        ({"left": None}, False),
        ({"left": "a", "foo": 1}, False),
        ({"left": "a", "inner": {"foo": 1}}, False),
        ({"left": 5}, False),
    ],
)
def test_what_the_schema_says(value: dict[str, Any], fits: bool) -> None:
    assert _validator(Outer).is_valid(value) is fits


@pytest.mark.parametrize("value", [{"size": "5"}, {"size": 5.5}, {"size": True}, {"foo": 1}, [], "x"])
def test_nothing_is_converted_and_nothing_besides_is_taken(value: Any) -> None:
    with pytest.raises(ValidationError):
        Inner.model_validate(value)
