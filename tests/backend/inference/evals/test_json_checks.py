"""Checks of JSON: backend/inference/evals/json_checks.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backend.errors import ConfigError
from backend.inference.evals.assertions import make_verifier
from backend.inference.evals.verdicts import Answer, Score

SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}


def score(text: str | Answer, kind: str, value: Any = None, row: Any = None, **more: Any) -> Score:
    answer = text if isinstance(text, Answer) else Answer(text)
    return make_verifier({"type": kind, "value": value, **more}, "x")(answer, row or {"expected": "{}"})


@pytest.mark.parametrize(
    ("text", "kind", "value", "passed"),
    [
        ('{"a": 1}', "is-json", None, True),
        ("3", "is-json", None, True),
        ('```json\n{"a": 1}\n```', "is-json", None, False),
        ('{"a": 1}', "is-json", SCHEMA, True),
        ('{"a": 1}', "is-json", json.dumps(SCHEMA), True),
        ('{"a": 1}', "is-json", "required: [a]\n", True),
        ('{"a": "1"}', "is-json", SCHEMA, False),
        ('{"b": 1}', "is-json", SCHEMA, False),
        ('Here: {"a": 1}.', "contains-json", None, True),
        ("no", "contains-json", None, False),
        ('{"b": 1} {"a": 1}', "contains-json", SCHEMA, True),
        ('{"b": 1}', "contains-json", SCHEMA, False),
    ],
)
def test_json_that_passes_and_does_not(text: str, kind: str, value: Any, passed: bool) -> None:
    found = score(text, kind, value)
    assert (found.passed, found.decided, bool(found.reason)) == (passed, True, not passed)


@pytest.mark.parametrize("value", [3, {"type": "thing"}, {"pattern": "("}, "type: thing", ": :"])
@pytest.mark.parametrize("kind", ["is-json", "contains-json"])
def test_what_is_no_schema_is_refused_with_its_place(kind: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"x\.value"):
        score("{}", kind, value)


def called(name: Any = "add", arguments: Any = '{"a": 1}') -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ([called()], ""),
        ([called(), called(arguments={"a": 2})], ""),
        ([called(), called(arguments='{"a": "x"}')], "do not fit: a: 'x'"),
        ([called(arguments="{")], "do not fit"),
        ([called("subtract")], "'subtract', which is not declared"),
        ([called(None)], "no function name"),
        ([{"function": 3}], "no function name"),
        ([], "no tool call"),
        ([3], "no tool call"),
        ({"tool_calls": [called()]}, ""),
        ({"name": "add", "arguments": {"a": 1}}, ""),
        ("text", "no tool call"),
    ],
)
def test_calls_are_held_against_the_tools(calls: Any, reason: str) -> None:
    found = score(json.dumps(calls), "is-valid-openai-tools-call", [TOOL])
    assert (found.passed, found.decided) == (not reason, True)
    assert reason in found.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', ""),
        ('Well. <tool_call>{"name": "add", "arguments": {"a": "x"}}</tool_call>', "do not fit"),
        ("<tool_call>add</tool_call>", "no tool call"),
    ],
)
def test_calls_between_tags_are_calls(text: str, reason: str) -> None:
    found = score(text, "is-valid-openai-tools-call", [TOOL])
    assert (found.passed, found.decided) == (not reason, True)
    assert reason in found.reason


def test_a_schema_that_refers_nowhere_leaves_it_undecided() -> None:
    for kind in ("is-json", "not-is-json", "contains-json"):
        assert not score("{}", kind, {"$ref": "#/$defs/none"}).decided


def test_tools_of_the_row_and_calls_of_the_answer() -> None:
    answer = Answer("", tool_calls=(called(),))
    assert score(answer, "is-valid-openai-tools-call", row={"tools": [TOOL]}).passed
    assert score(answer, "is-valid-openai-tools-call", row={"tools": json.dumps([TOOL])}).passed
    bare = {"name": "add"}
    assert score(answer, "is-valid-openai-tools-call", [bare]).passed


@pytest.mark.parametrize(
    "tools", [None, [], "no json", [3], [{"function": {"name": "add", "parameters": {"type": "thing"}}}]]
)
def test_without_usable_tools_it_is_undecided(tools: Any) -> None:
    row = {"tools": tools}
    assert not score(Answer("", tool_calls=(called(),)), "is-valid-openai-tools-call", row=row).decided


@pytest.mark.parametrize(
    ("text", "names", "share"),
    [
        ('{"a": 1, "b": "x", "c": [1]}', None, 1.0),
        ('{"a": 1.0, "b": "x", "c": [1], "d": 0}', None, 1.0),
        ('{"a": 2, "b": "x"}', None, 1 / 3),
        ('{"a": 2, "b": "x"}', ["b"], 1.0),
        ('{"a": 2, "b": "x"}', ["a", "b"], 0.5),
        ("[]", None, 0.0),
        ("nothing", None, 0.0),
    ],
)
def test_fields_that_are_right(text: str, names: Any, share: float) -> None:
    row = {"expected": '{"a": 1, "b": "x", "c": [1]}'}
    found = score(text, "json-fields", names, row)
    assert (found.score, found.passed) == (pytest.approx(share), share == 1)
    assert score(text, "json-fields", names, row, threshold=share).passed is bool(share)


@pytest.mark.parametrize(("expected", "names"), [("text", None), ("{}", None), ('{"a": 1}', ["z"])])
def test_fields_of_no_object_are_undecided(expected: str, names: Any) -> None:
    assert not score("{}", "json-fields", names, {"expected": expected}).decided


@pytest.mark.parametrize("names", ["a", [1]])
def test_names_of_fields_are_a_list(names: Any) -> None:
    with pytest.raises(ConfigError, match="names of fields"):
        score("{}", "json-fields", names)
