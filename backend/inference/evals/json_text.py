"""JSON as models write it: strictly read, found inside other text, and held against a JSON Schema.

Whatever the text, this takes a bounded time and raises nothing but ``NotJsonError``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from fractions import Fraction
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from backend.data.exact_json import depth
from backend.inference.evals.patterns import found_in, pattern_fault
from backend.utils.text_utils import shorten

MAX_DEPTH = 100
MAX_REFERENCES = 3_000
"""References of a schema that are followed for one value; branches that refer to themselves would make millions."""
MAX_SCANNED = 2_000_000
"""Most characters that are read, some of them again and again, to find JSON inside other text."""
_references_left: ContextVar[list[int]] = ContextVar("references_left")
_OPENING = re.compile(r"[\[{]")


class NotJsonError(ValueError):
    """The text is not one JSON value, or not one that can be used; ``read`` characters were seen before it failed."""

    def __init__(self, message: str, read: int | None = None) -> None:
        super().__init__(message)
        self.read = read


def _no_constant(name: str) -> Any:
    raise NotJsonError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_no_constant)


def read_json_text(text: str) -> Any:
    """Return the one JSON value of a text; spaces around it are allowed. Raises NotJsonError."""
    start = len(text) - len(text.lstrip(" \t\r\n"))
    value, end = _decoded(text, start)
    if text[end:].strip(" \t\r\n"):
        raise NotJsonError("more text follows the JSON")
    return value


def json_inside(text: str) -> Iterator[Any]:
    """Yield each JSON object and list of a text, from left to right, none inside another.

    It gives up after ``MAX_SCANNED``: a text of opening brackets would be read from each of them to its end.
    """
    place, left = 0, MAX_SCANNED
    while left > 0 and (opening := _OPENING.search(text, place)):
        start = opening.start()
        try:
            value, place = _decoded(text, start)
        except NotJsonError as error:
            left -= len(text) - start if error.read is None else error.read
            place = start + 1
        else:
            left -= place - start
            yield value


def _decoded(text: str, start: int) -> tuple[Any, int]:
    """Return the value that begins at ``start``, and the place after it."""
    try:
        value, end = _decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        what = f"{error.msg[:1].lower()}{error.msg[1:]} at character {error.pos + 1}"
        raise NotJsonError(what, error.pos - start) from None
    except NotJsonError:
        raise
    except ValueError:
        raise NotJsonError("it has a number of thousands of digits") from None
    except RecursionError:
        raise NotJsonError("it is nested too deeply") from None
    if depth(value) > MAX_DEPTH:
        raise NotJsonError("it is nested too deeply")
    return value, end


def canonical(value: Any) -> str:
    """Return equal texts for equal JSON values: ``1`` equals ``1.0``, the order of keys does not matter."""
    return json.dumps(_with_floats(value), sort_keys=True)


def _with_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _with_floats(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_floats(each) for each in value]
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
    return float(value) if whole else value


# --- schemas ----------------------------------------------------------------------------------------------


class Schema:
    """A JSON Schema (draft 2020-12). Its patterns are RE2's, and nothing is fetched that it refers to.

    Raises ValueError with the reason where it is no schema.
    """

    def __init__(self, schema: Mapping[str, Any] | bool) -> None:
        try:
            Draft202012Validator.check_schema(schema)
        except (SchemaError, RecursionError) as error:
            raise ValueError(shorten(getattr(error, "message", "it is nested too deeply"), 200)) from None
        for pattern in _patterns(schema):
            if reason := pattern_fault(pattern):
                raise ValueError(f"its pattern {pattern!r} cannot be used: {reason}")
        self._validator = _Validator(schema, registry=Registry())

    def fault(self, value: Any) -> str:
        """Return the first reason why ``value`` is not valid, with its place; "" if it is.

        Raises ValueError with the reason where the schema cannot be used.
        """
        _references_left.set([MAX_REFERENCES])
        try:
            error = next(iter(self._validator.iter_errors(value)), None)
        except Unresolvable as unknown:
            raise ValueError(f"it refers to {unknown.ref}, which is not in it") from None
        except RecursionError:
            raise ValueError("it refers to itself without an end") from None
        except (ArithmeticError, AttributeError, LookupError, TypeError) as wrong:
            raise ValueError(f"a part of it is no schema ({shorten(str(wrong), 100)})") from None
        if error is None:
            return ""
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        return shorten(f"{place.lstrip('.')}: {error.message}" if place else error.message, 200)


def _patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        if isinstance(schema.get("patternProperties"), Mapping):
            yield from schema["patternProperties"]
        for each in schema.values():
            yield from _patterns(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _patterns(each)


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not found_in(pattern, instance):
        yield ValidationError(f"{shorten(instance, 60)!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, _: Any
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, schema in patterns.items():
            for key in (key for key in instance if found_in(pattern, key)):
                yield from validator.descend(instance[key], schema, path=key, schema_path=pattern)


def _additional_properties(
    validator: Any, allowed: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    patterns, known = schema.get("patternProperties", {}), schema.get("properties", {})
    for key in instance:
        if key not in known and not any(found_in(pattern, key) for pattern in patterns):
            if allowed is False:
                yield ValidationError(f"{shorten(key, 60)!r} is not a key that is allowed")
            elif allowed is not True:
                yield from validator.descend(instance[key], allowed, path=key)


def _unique_items(_: Any, unique: bool, instance: Any, __: Any) -> Iterator[ValidationError]:
    if unique and isinstance(instance, list) and len({*map(canonical, instance)}) < len(instance):
        yield ValidationError("it has two equal items")


def _multiple_of(_: Any, step: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, bool) or not isinstance(instance, int | float):
        return
    if not _is_multiple(instance, step):
        yield ValidationError(f"{shorten(repr(instance), 60)} is not a multiple of {step}")


def _is_multiple(value: float, step: float) -> bool:
    """Compare as they are written: 19.99 is a multiple of 0.01, though its nearest binary fraction is not."""
    if any(isinstance(each, float) and not math.isfinite(each) for each in (value, step)):
        return False
    return Fraction(repr(value)) % Fraction(repr(step)) == 0


def _counted(follow: Any) -> Any:
    def following(validator: Any, reference: Any, instance: Any, schema: Any) -> Any:
        left = _references_left.get()
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("it refers to itself too often")
        return follow(validator, reference, instance, schema)

    return following


_Validator: Any = extend(
    Draft202012Validator,
    {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
        "multipleOf": _multiple_of,
        **{word: _counted(Draft202012Validator.VALIDATORS[word]) for word in ("$ref", "$dynamicRef")},
    },
)
"""The keywords whose usual code takes a time that grows with the square of a text, or with its power, or fails."""
