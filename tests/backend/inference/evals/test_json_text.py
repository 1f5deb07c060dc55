"""JSON as models write it: backend/inference/evals/json_text.py."""

from __future__ import annotations

import functools
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from backend.inference.evals import json_text
from backend.inference.evals.json_text import NotJsonError, Schema, canonical, json_inside, read_json_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_what_was_written_is_read(value: Any) -> None:
    assert read_json_text(f"\n {json.dumps(value)}\t") == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expecting value"),
        ("{'a': 1}", "double quotes"),
        ('{"a": 1} and more', "more text"),
        ("NaN", "NaN is not JSON"),
        ("[-Infinity]", "Infinity"),
        ("[" * 1_000_000, "nested"),
        ("[" * 101 + "]" * 101, "nested"),
        ("9" * 5_000, "digits"),
        ("\0", "expecting value"),
        ("\ud800", "expecting value"),
    ],
    ids=lambda part: part[:12],
)
def test_what_is_no_json_has_a_reason(text: str, reason: str) -> None:
    with pytest.raises(NotJsonError, match=reason):
        read_json_text(text)


def test_half_a_character_inside_json_is_read() -> None:
    assert read_json_text('"\\ud800"') == "\ud800"
    assert read_json_text("[" * 100 + "]" * 100)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('Sure: {"a": [1]} and [2].', [{"a": [1]}, [2]]),
        ("[note: {} ]", [{}]),
        ("{not} {json}", []),
        ("1 2 3", []),
        ('[{"a": 1}', [{"a": 1}]),
    ],
)
def test_json_is_found_inside_text(text: str, found: list[Any]) -> None:
    assert list(json_inside(text)) == found


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "[," * 25_000, "[" * 900 + "1," * 24_000, '{"a":' * 10_000, '["' * 25_000]
)
def test_looking_for_json_comes_to_an_end(text: str) -> None:
    started = time.process_time()
    assert list(json_inside(text)) == []
    assert time.process_time() - started < 2


def test_looking_stops_after_so_much_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "MAX_SCANNED", 5)
    assert list(json_inside("[1] [2] [3]")) == [[1], [2]]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}, True),
        (True, 1, False),
        ("1", 1, False),
        ([1, 2], [2, 1], False),
        (2**60, 2**60 + 1, False),
    ],
)
def test_equal_values_have_equal_texts(one: Any, other: Any, same: bool) -> None:
    assert (canonical(one) == canonical(other)) is same


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"pattern": "^x"}},
    "patternProperties": {"^n_": {"type": "number"}},
    "additionalProperties": {"type": "string"},
    "required": ["a"],
}
KEYS = st.sampled_from(["a", "b", "n_1", "other"])


@given(st.dictionaries(KEYS, st.sampled_from([1, 1.5, "x", "y", None, True]), max_size=4))
def test_a_value_fits_a_schema_where_jsonschema_says_so(value: Any) -> None:
    for closed in ({"type": "string"}, False, True):
        schema = SCHEMA | {"additionalProperties": closed}
        assert (Schema(schema).fault(value) == "") == Draft202012Validator(schema).is_valid(value)


@given(st.lists(st.sampled_from([1, 1.0, True, False, 0, "1", None]), max_size=4))
def test_items_are_unique_where_jsonschema_says_so(value: Any) -> None:
    schema = {"uniqueItems": True}
    assert (Schema(schema).fault(value) == "") == Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(
    ("schema", "value", "fault"),
    [
        (SCHEMA, {}, "'a' is a required property"),
        (SCHEMA, {"a": "1"}, "a: '1' is not of type 'integer'"),
        ({"items": {"minimum": 3}}, [3, 1], "[1]: 1 is less than the minimum of 3"),
        (False, 1, "False schema does not allow 1"),
    ],
)
def test_a_fault_has_a_place_and_a_reason(schema: Any, value: Any, fault: str) -> None:
    assert fault in Schema(schema).fault(value)


TREE = {"$ref": "#/$defs/tree", "$defs": {"tree": {"oneOf": [
    {"properties": {"and": {"$ref": "#/$defs/tree"}}, "required": ["and"]},
    {"properties": {"and": {"$ref": "#/$defs/tree"}, "or": {}}, "required": ["and", "or"]},
    {"type": "integer"},
]}}}  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "value", "reason"),
    [
        ({"$ref": "#"}, 1, "without an end"),
        ({"$ref": "https://example.org/a.json"}, 1, "https://example.org/a.json"),
        ({"allOf": [{}], "$ref": "#/allOf/x"}, 1, "x"),
        ({"minLength": 1, "$ref": "#/minLength/x"}, 1, "no schema"),
        ({"required": [], "$ref": "#/required"}, 1, "no schema"),
        (TREE, functools.reduce(lambda inner, _: {"and": inner}, range(30), 1), "too often"),
    ],
)
def test_a_schema_that_cannot_be_used_is_no_fault_of_the_value(schema: Any, value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Schema(schema).fault(value)


@pytest.mark.parametrize(
    ("value", "step", "fits"),
    [(19.99, 0.01, True), (19.995, 0.01, False), (10**400, 0.5, True), (float("inf"), 0.5, False),
     (10**400 + 1, 2, False), (True, 2, True), ("x", 2, True)],
)  # fmt: skip
def test_a_multiple_is_one_of_the_numbers_as_written(value: Any, step: float, fits: bool) -> None:
    assert (Schema({"multipleOf": step}).fault(value) == "") is fits


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "thing"}, "thing"),
        ({"pattern": "(?=a)"}, "pattern"),
        ({"properties": {"a": {"patternProperties": {"(?!a)": {}}}}}, "pattern"),
        ({"anyOf": [{"pattern": "("}]}, "regex"),
    ],
)
def test_what_is_no_schema_is_refused(schema: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Schema(schema)


def test_a_hostile_text_under_a_slow_pattern_takes_no_time() -> None:
    started = time.process_time()
    schema = Schema({"items": {"pattern": "(x+x+)+y"}, "uniqueItems": True})
    assert schema.fault(["x" * 40_000])
    assert schema.fault([*range(9_000), None, 1]) == "it has two equal items"
    assert time.process_time() - started < 2
