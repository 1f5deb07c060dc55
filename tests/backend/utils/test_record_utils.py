"""JSON into dataclasses, strictly: backend/utils/record_utils.py."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pytest

from backend.utils.record_utils import record_from_json, record_to_json


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    number: int


@dataclass(frozen=True)
class Outer:
    text: str
    share: float
    colour: Colour
    flag: bool = False
    inner: Inner | None = None
    words: tuple[str, ...] = ()


WHOLE = Outer("a", 0.5, Colour.RED, True, Inner(3), ("x", "y"))
PLAIN = {"text": "a", "share": 0.5, "colour": "red"}


def test_there_and_back() -> None:
    plain = record_to_json(WHOLE)
    assert record_from_json(Outer, {**plain, "words": ["x", "y"]}) == WHOLE


def test_defaults_fill_in_and_unknown_keys_are_left_out() -> None:
    assert record_from_json(Outer, {**PLAIN, "from_the_future": 1}) == Outer("a", 0.5, Colour.RED)


def test_a_whole_number_may_stand_for_a_float() -> None:
    assert record_from_json(Outer, {**PLAIN, "share": 1}).share == 1.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"text": 3}, "text"),
        ({"share": "much"}, "share"),
        ({"share": True}, "share"),
        ({"colour": "blue"}, "blue"),
        ({"flag": 1}, "flag"),
        ({"inner": {"number": True}}, "number"),
        ({"inner": {}}, "number"),
        ({"inner": [1]}, "inner"),
        ({"words": "xy"}, "words"),
        ({"words": [1]}, "words"),
        ({"text": None}, "text"),
    ],
)
def test_the_wrong_type_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        record_from_json(Outer, {**PLAIN, **change})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="colour is missing"):
        record_from_json(Outer, {"text": "a", "share": 1.0})


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_anything_but_an_object_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="Outer must be an object"):
        record_from_json(Outer, value)


@pytest.mark.parametrize("value", [3, "x", Outer])
def test_only_dataclass_values_become_json(value: object) -> None:
    with pytest.raises(TypeError, match="not a dataclass instance"):
        record_to_json(value)
