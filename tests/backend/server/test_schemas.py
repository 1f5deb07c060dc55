"""What a client may ask: backend/server/schemas.py. The table of bad fields is tried over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backend.inference.constraint import Constraint
from backend.server.errors import ApiError
from backend.server.parsing import parse
from backend.server.schemas import (
    ChatRequest,
    CompareRequest,
    CompletionRequest,
    EmbeddingRequest,
    TokenViewRequest,
)
from backend.server.tool_calls import calls_by_schema, one_call

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


HAM = {"type": "function", "function": {"name": "weigh", "parameters": {"enum": ["ham"]}}}
STRICT = {"type": "function", "function": {**HAM["function"], "strict": True}}  # type: ignore[dict-item]
MEAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["meat"]}}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"tools": [HAM]}, None),
        ({"tools": [STRICT], "tool_choice": "none"}, None),
        ({"response_format": MEAT}, None),
        ({"tools": [HAM], "tool_choice": "required"}, one_call([HAM["function"]])),  # type: ignore[list-item]
        (
            {"tools": [HAM], "response_format": MEAT},
            one_call([HAM["function"]], form={"enum": ["meat"]}),  # type: ignore[list-item]
        ),
        ({"tools": [STRICT]}, calls_by_schema([HAM["function"]])),  # type: ignore[list-item]
    ],
)
def test_what_calls_are_held_to(fields: dict[str, Any], expected: Constraint | None) -> None:
    assert _chat(**fields).calls_constraint() == expected


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": MEAT},
        {"structured_outputs": {"choice": ["a"]}},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_an_answer_that_has_to_be_a_call_has_no_other_form(form: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="no other form"):
        _chat(tools=[HAM], tool_choice="required", **form)


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 5),
        ({"max_tokens": None, "max_completion_tokens": None}, None),
    ],
)
def test_the_lesser_of_two_limits_holds(fields: dict[str, Any], limit: int | None) -> None:
    assert _chat(**fields).limit == limit


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": [1, 2]}, "prompt: token ids mean other texts to other tokenizers"),
        ({"prompt": [[1, 2]]}, "prompt: token ids"),
        ({"prompt": []}, "prompt: It must not be empty."),
        ({"prompt": ["a", ""]}, "prompt.1: It must not be empty."),
        ({"prompt": None}, "Missing field: prompt."),
        ({"prompt": ["a"] * 65, "n": 2}, "more than 128 answers"),
        ({"echo": True, "logprobs": 0}, "echo and logprobs exclude each other"),
        ({"logprobs": True}, "logprobs: It is true, and must be a whole number"),
    ],
)
def test_texts_that_cannot_be_continued(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(CompletionRequest, json.dumps({"model": "m", "prompt": "x", **fields}).encode())
    assert said in caught.value.message


@pytest.mark.parametrize("given", ["a", ["a"]])
def test_prompts_are_one_or_many(given: Any) -> None:
    asked = parse(CompletionRequest, json.dumps({"model": "m", "prompt": given}).encode())
    assert (asked.prompts, asked.max_tokens, asked.echo) == (["a"], 16, False)


@pytest.mark.parametrize("model", [TokenViewRequest, CompareRequest])
@pytest.mark.parametrize("fields", [{}, {"prompt": "a", **HELLO}, {"prompt": ""}])
def test_a_look_wants_one_prompt(model: type[Any], fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError):
        parse(model, json.dumps({"model": "m", **fields}).encode())


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
