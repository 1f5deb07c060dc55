"""Null and nothing are as if left out, in what is read and in the schema: backend/server/strict.py."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict, Field, ValidationError

from backend.inference.constraint import Constraint
from backend.server.schemas import (
    ChatRequest,
    CompareRequest,
    CompletionRequest,
    EmbeddingRequest,
    TokenViewRequest,
)
from backend.server.strict import Strict, exactly_one

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "m", "prompt": "hi"}
SMALLEST = [
    (ChatRequest, HELLO),
    (CompletionRequest, TEXT),
    (EmbeddingRequest, {"model": "m", "input": "hi"}),
    (TokenViewRequest, HELLO),
    (CompareRequest, TEXT),
]


class Inner(Strict):
    size: int = 5


class Outer(Strict):
    model_config = ConfigDict(json_schema_extra=exactly_one("left", "right"))

    left: str | None = None
    right: Annotated[list[int], Field(default_factory=list)]
    inner: Inner | None = None


@cache
def _validator(model: type[Strict]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(model.model_json_schema())


@pytest.mark.parametrize(("model", "smallest"), SMALLEST)
@given(data=st.data())
def test_a_field_that_is_null_or_empty_is_as_if_left_out(
    model: type[Strict], smallest: dict[str, Any], data: st.DataObject
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
