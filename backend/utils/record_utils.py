"""Convert dataclasses to JSON and back, strictly: a value of the wrong type is an error.

Unknown keys are ignored, so that an older version can open what a newer one wrote.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
Convert = Callable[[object, str], Any]


def record_to_json(record: object) -> dict[str, Any]:
    """Return a dataclass as JSON-ready dictionaries and lists. Raises TypeError for anything else."""
    if not dataclasses.is_dataclass(record) or isinstance(record, type):
        raise TypeError(f"{type(record).__name__} is not a dataclass instance")
    return dataclasses.asdict(record)


def record_from_json(kind: type[T], value: object) -> T:
    """Return a ``kind`` made from a JSON object. Raises ValueError naming the missing or wrong field."""
    record: T = _converter(cast("Hashable", kind))(value, kind.__name__)
    return record


@cache
def _converter(hint: Any) -> Convert:
    """Return the function that converts a JSON value to the type ``hint``; made once for each type."""
    if get_origin(hint) in {Union, UnionType}:
        return _optional(get_args(hint))
    if get_origin(hint) is tuple:
        return _list_of(_converter(get_args(hint)[0]))
    if get_origin(hint) is dict:
        return _mapping_to(_converter(get_args(hint)[1]))
    if dataclasses.is_dataclass(hint):
        return _record(hint)
    if issubclass(hint, Enum):
        return lambda value, _name: hint(value)
    return _plain(hint)


def _plain(kind: type) -> Convert:
    def convert(value: object, name: str) -> object:
        if type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value)
        raise ValueError(f"{name} must be {kind.__name__}, not {value!r}")

    return convert


def _optional(choices: tuple[Any, ...]) -> Convert:
    (inner,) = (_converter(choice) for choice in choices if choice is not NoneType)
    return lambda value, name: None if value is None else inner(value, name)


def _list_of(inner: Convert) -> Convert:
    def convert(value: object, name: str) -> object:
        if not isinstance(value, list):
            raise ValueError(f"{name} must be a list, not {value!r}")  # noqa: TRY004  one error for a wrong file
        return tuple(inner(item, name) for item in value)

    return convert


def _mapping_to(inner: Convert) -> Convert:
    def convert(value: object, name: str) -> object:
        if not isinstance(value, dict):
            raise ValueError(f"{name} must be an object, not {value!r}")  # noqa: TRY004  one error for a wrong file
        return {str(key): inner(item, f"{name}.{key}") for key, item in value.items()}

    return convert


def _record(kind: Any) -> Convert:
    hints = get_type_hints(kind)
    missing = dataclasses.MISSING
    given = [item for item in dataclasses.fields(kind) if item.init]
    fields = {item.name: _converter(hints[item.name]) for item in given}
    needed = {item.name for item in given if item.default is missing and item.default_factory is missing}

    def convert(value: object, name: str) -> object:
        if not isinstance(value, dict):
            raise ValueError(f"{name} must be an object, not {value!r}")  # noqa: TRY004  one error for a wrong file
        if not needed <= value.keys():
            absent = [field for field in fields if field in needed and field not in value]
            raise ValueError(f"{absent[0]} is missing")
        return kind(
            **{field: inner(value[field], field) for field, inner in fields.items() if field in value}
        )

    return convert
