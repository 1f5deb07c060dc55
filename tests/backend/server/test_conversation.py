"""Messages, tools and the choice among them: backend/server/conversation.py."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from backend.server.conversation import ChatMessage, FunctionTool, WithToolChoice

CALL = {"id": "1", "type": "function", "function": {"name": "weigh", "arguments": '{"food": "ham"}'}}
WEIGH = {"type": "function", "function": {"parameters": {"type": "object"}, "strict": None, "name": "weigh"}}
NOW = {"type": "function", "function": {"name": "now"}}
SCHEMA = jsonschema.Draft202012Validator(ChatMessage.model_json_schema())
ONLY_NOW = {"type": "function", "function": {"name": "now"}}


def _plain(**fields: Any) -> dict[str, Any]:
    return ChatMessage.model_validate(fields).plain()


@pytest.mark.parametrize(
    ("message", "plain"),
    [
        ({"role": "user", "content": "hi"}, {"role": "user", "content": "hi"}),
        ({"role": "developer", "content": "hi"}, {"role": "system", "content": "hi"}),
        ({"role": "user", "name": "Ann", "content": "hi"}, {"role": "user", "name": "Ann", "content": "hi"}),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": "ab"},
        ),
        (
            {"role": "tool", "tool_call_id": "1", "content": "5 kg"},
            {"role": "tool", "tool_call_id": "1", "content": "5 kg"},
        ),
        (
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "assistant", "tool_calls": [CALL], "content": ""},
        ),
        ({"role": "assistant", "content": "x", "tool_calls": []}, {"role": "assistant", "content": "x"}),
        (
            {"role": "assistant", "content": "x", "reasoning_content": "hm"},
            {"role": "assistant", "content": "x", "reasoning_content": "hm"},
        ),
        (
            {"role": "assistant", "content": "x", "reasoning": "hm"},
            {"role": "assistant", "content": "x", "reasoning_content": "hm"},
        ),
        (
            {"role": "assistant", "content": "x", "thinking": "hm"},
            {"role": "assistant", "content": "x", "thinking": "hm"},
        ),
        (
            {"role": "assistant", "content": None, "refusal": "I will not."},
            {"role": "assistant", "content": "I will not."},
        ),
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
            },
            {"role": "user", "content": "a"},
        ),
    ],
)
def test_messages_as_templates_want_them(message: dict[str, Any], plain: dict[str, Any]) -> None:
    assert _plain(**message) == plain
    assert SCHEMA.is_valid(message)


@pytest.mark.parametrize(
    "echo",
    [
        {"refusal": None, "annotations": None, "audio": None, "function_call": None, "tool_calls": None},
        {"provider_specific_fields": {"refusal": None}},
        {"annotations": [], "refusal": None, "audio": None, "tool_calls": [], "function_call": {}},
        {"id": "msg-1", "annotations": [{"type": "url_citation", "url_citation": {"url": "u"}}]},
        {"cache_control": {"type": "ephemeral"}},
    ],
    ids=["openai", "litellm", "openai, empty", "codecompanion", "marked"],
)
def test_a_message_of_ours_comes_back_as_clients_send_it(echo: dict[str, Any]) -> None:
    said = {"role": "assistant", "content": "hi"}
    called = {**CALL, "index": 0, "function": {**CALL["function"], "provider_specific_fields": None}}  # type: ignore[dict-item]

    assert _plain(**said, **echo) == said
    assert _plain(**{**echo, **said, "tool_calls": [called]})["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user", "content": "x", "tool_calls": [CALL]},
        {"role": "user", "content": None, "refusal": "no"},
        {"role": "assistant", "content": None, "refusal": ""},
        {"role": "assistant", "content": "x", "provider_specific_fields": {"reasoning": "hm"}},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "function", "name": "f", "content": "x"},
    ],
)
def test_messages_that_are_none(message: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatMessage.model_validate(message)
    assert not SCHEMA.is_valid(message)


def test_a_function_keeps_its_keys_in_their_order() -> None:
    function = FunctionTool.model_validate(WEIGH).function

    assert list(function.items()) == list(WEIGH["function"].items())  # type: ignore[attr-defined]


@pytest.mark.parametrize("function", [{}, {"name": ""}, {"name": 5}, {"name": "f", "parameters": []}, "f"])
def test_functions_that_are_none(function: Any) -> None:
    with pytest.raises(ValidationError):
        FunctionTool.model_validate({"type": "function", "function": function})


@pytest.mark.parametrize(
    ("choice", "shown", "callable_", "must"),
    [
        (None, ["weigh", "now"], ["weigh", "now"], False),
        ("auto", ["weigh", "now"], ["weigh", "now"], False),
        ("none", [], [], False),
        ("required", ["weigh", "now"], ["weigh", "now"], True),
        (ONLY_NOW, ["weigh", "now"], ["now"], True),
    ],
)
def test_what_may_and_what_must_be_called(
    choice: Any, shown: list[str], callable_: list[str], must: bool
) -> None:
    asked = WithToolChoice.model_validate({"tools": [WEIGH, NOW], "tool_choice": choice})

    assert [tool["function"]["name"] for tool in asked.plain_tools or ()] == shown
    assert [function["name"] for function in asked.callable] == callable_
    assert asked.must_call is must


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required"},
        {"tool_choice": ONLY_NOW},
        {"tools": [WEIGH], "tool_choice": ONLY_NOW},
        {"tools": [WEIGH], "tool_choice": "often"},
        {"tools": [WEIGH], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
    ],
)
def test_choices_that_are_none(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WithToolChoice.model_validate(fields)


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_without_tools_nothing_is_called(choice: str | None) -> None:
    asked = WithToolChoice.model_validate({"tool_choice": choice, "parallel_tool_calls": True})

    assert (asked.plain_tools, asked.callable, asked.must_call) == (None, [], False)
