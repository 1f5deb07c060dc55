"""Plain JSON into frozen dataclasses, strictly: a wrong type is an error, never a guess.

Unknown keys are left out, so that an older reader can open what a newer writer wrote. Floor F0: standard
library only, no domain word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def record_to_json(record: object) -> dict[str, Any]:
    """A dataclass as JSON-ready dictionaries and lists. Raises TypeError for anything else."""
    if not dataclasses.is_dataclass(record) or isinstance(record, type):
        raise TypeError(f"{type(record).__name__} is no dataclass value")
    return dataclasses.asdict(record)


def record_from_json(kind: type[T], value: object) -> T:
    """A ``kind`` made from a JSON object. Raises ValueError naming the field that is missing or wrong."""
    if not isinstance(value, Mapping):
        raise ValueError(f"a {kind.__name__} must be a JSON object, not {type(value).__name__}")  # noqa: TRY004  one error for every wrong file
    filled: dict[str, Any] = {}
    for name, hint, required in _fields(cast("Hashable", kind)):
        if name in value:
            filled[name] = _convert(hint, value[name], name)
        elif required:
            raise ValueError(f"{name} is missing")
    return kind(**filled)


@cache
def _fields(kind: Hashable) -> list[tuple[str, Any, bool]]:
    """Name, type and whether it must be given, for each field of a dataclass."""
    hints = get_type_hints(kind)
    missing = dataclasses.MISSING
    return [
        (item.name, hints[item.name], item.default is missing and item.default_factory is missing)
        for item in dataclasses.fields(cast("type[Any]", kind))
        if item.init
    ]


def _convert(hint: Any, value: object, name: str) -> object:
    origin = get_origin(hint)
    if origin in {Union, UnionType}:
        return _convert_optional(get_args(hint), value, name)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(get_args(hint)[0], item, name) for item in value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return record_from_json(hint, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is hint:
        return value
    raise ValueError(f"{name} must be {getattr(hint, '__name__', hint)}, not {value!r}")


def _convert_optional(choices: tuple[Any, ...], value: object, name: str) -> object:
    if value is None and NoneType in choices:
        return None
    (hint,) = (choice for choice in choices if choice is not NoneType)
    return _convert(hint, value, name)
