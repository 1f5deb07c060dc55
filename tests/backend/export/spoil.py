"""Documents changed one value at a time: what the certificate has to notice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

LONG = 100
"""Values of a list or object that is longer (vocabulary, merges) are changed in three places."""

_OTHER_WORDS = {"silu": "gelu", "float32": "float16", "bfloat16": "float16"}


def others(value: Any) -> Iterator[Any]:
    """Values of the same type that say something else."""
    match value:
        case bool():
            yield not value
        case int():
            yield value + 1
        case float():
            yield value * 1.5 + 0.25
        case str():
            yield _OTHER_WORDS.get(value, f"{value}x")
        case None:
            yield 7
        case []:
            yield [7]
        case {}:
            yield {"odd": 7}
        case list() if not isinstance(value[0], dict | list):
            yield value[1:]
            yield [*value[:-1], next(others(value[-1]))]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document that is changed alone."""
    if isinstance(value, dict) and value:
        for key in _some(list(value)):
            yield from places(value[key], (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict | list):
        for index in _some(list(range(len(value)))):
            yield from places(value[index], (*path, index))
    else:
        yield path


def _some(keys: list[Any]) -> list[Any]:
    return keys if len(keys) <= LONG else [keys[0], keys[len(keys) // 2], keys[-1]]


def at(document: Any, path: tuple[Any, ...]) -> Any:
    """The value at ``path``."""
    for key in path:
        document = document[key]
    return document


def spoilt(text: str) -> Iterator[tuple[str, str, str]]:
    """(what was changed, its key, the document) for each change to a JSON text; the last adds a key."""
    for path in places(json.loads(text)):
        for value in others(at(json.loads(text), path)):
            document = json.loads(text)
            at(document, path[:-1])[path[-1]] = value
            yield f"{'.'.join(map(str, path))} = {str(value)[:60]}", str(path[-1]), json.dumps(document)
    yield "odd_key added", "odd_key", json.dumps(json.loads(text) | {"odd_key": 7})
