"""Decode JSON without changing a character of any text.

The standard decoder turns ``1.10`` into ``1.1`` and keeps the last of two equal keys. Here a number keeps its
spelling, and repeated keys and nesting over ``MAX_DEPTH`` are refused.
"""

from __future__ import annotations

import json
import re
from typing import Any

from backend.data.encoding_guess import encoding_advice

MAX_DEPTH = 100
AROUND = 100
"""Characters before and after a byte that is not UTF-8, by which its encoding is guessed."""

# The standard decoder's messages in plain words.
_IN_WORDS = {
    "Expecting value": "a value is missing (or a comma is too many)",
    "Expecting property name enclosed in double quotes": "a name in double quotation marks is missing (or a comma is "
    "too many)",
    "Expecting ',' delimiter": "a comma, or the end of the list or object, is missing",
    "Expecting ':' delimiter": "the colon behind a name is missing",
    "Unterminated string starting at": "a text is opened and not closed",
}

_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class Spelled(str):
    """A JSON number, kept as the text it was written as."""

    __slots__ = ()


class MalformedJsonError(ValueError):
    """The text is not a complete JSON value; ``position`` is the index of the character that is wrong."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


class ExactDecoder:
    """Decodes JSON values. It remembers repeated keys between ``scan`` and ``check``, so each reader has its own."""

    def __init__(self) -> None:
        self._twice: list[str] = []
        self._decoder = json.JSONDecoder(
            parse_int=Spelled, parse_float=Spelled, parse_constant=Spelled, object_pairs_hook=self._pairs
        )

    def decode(self, text: str) -> Any:
        """Return the one value in ``text``.

        Raises ``MalformedJsonError`` when the text is not JSON, and ``ValueError`` when it is but cannot be used.
        """
        start = len(text) - len(text.lstrip(" \t\r\n"))
        value, end = self.scan(text, start)
        if text[end:].strip(" \t\r\n"):
            raise MalformedJsonError(f"more text follows the value at character {end + 1}", end)
        self.check(text, value)
        return value

    def scan(self, text: str, start: int) -> tuple[Any, int]:
        """Return the value that begins at ``start`` and the position after it; the caller must ``check`` it."""
        self._twice.clear()
        try:
            return self._decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            message = _IN_WORDS.get(error.msg, error.msg)
            raise MalformedJsonError(f"{message} at character {error.pos + 1}", error.pos) from None
        except RecursionError:
            raise ValueError(_too_deep()) from None

    def check(self, source: str, value: Any) -> None:
        """Raise ``ValueError`` when the value just scanned from ``source`` cannot be used as it stands."""
        if self._twice:
            raise ValueError(f"the key {self._twice[0]!r} stands twice in one object")
        if source.count("[") + source.count("{") > MAX_DEPTH and depth(value) > MAX_DEPTH:
            raise ValueError(_too_deep())
        if _SURROGATE_ESCAPE.search(source) and (half := find_surrogate(value)):
            raise ValueError(half)

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            self._twice.append(next(key for key in keys if keys.count(key) > 1))
        return result


def decode(text: str) -> Any:
    """Return the one JSON value in ``text``, numbers as ``Spelled``; raises ``ValueError`` with the reason."""
    return ExactDecoder().decode(text)


def plain(value: Any) -> Any:
    """Return the value with every ``Spelled`` number as int or float, for structures such as tools."""
    if isinstance(value, Spelled):
        return json.loads(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def encode(value: Any) -> str:
    """Return the value as JSON on one line, numbers spelled as they were; ``decode`` reads the same back."""
    if isinstance(value, Spelled):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(str(key))}: {encode(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(encode, value)) + "]"
    return _quoted(value)


_quoted = json.JSONEncoder(ensure_ascii=False, default=str).encode


def depth(value: Any) -> int:
    """Return the depth of nested lists and objects; 0 for a scalar."""
    deepest, open_values = 0, [(value, 0)]
    while open_values:
        current, level = open_values.pop()
        if isinstance(current, dict | list):
            deepest = max(deepest, level + 1)
            items = current.values() if isinstance(current, dict) else current
            open_values.extend((item, level + 1) for item in items)
    return deepest


def find_surrogate(value: Any) -> str | None:
    """Return a sentence about the first text in ``value`` that is not valid Unicode, or None."""
    open_values = [value]
    while open_values:
        current = open_values.pop()
        if isinstance(current, str):
            if reason := surrogate_reason(current):
                return reason
        elif isinstance(current, dict):
            open_values.extend(current.values())
            open_values.extend(current)
        elif isinstance(current, list):
            open_values.extend(current)
    return None


def surrogate_reason(text: str) -> str | None:
    """Return a sentence about an undecodable byte or half a surrogate pair in ``text``, or None."""
    if text.isascii() or not (found := _SURROGATE.search(text)):
        return None
    code = ord(found.group())
    if 0xDC80 <= code <= 0xDCFF:
        around = text[max(0, found.start() - AROUND) : found.start() + AROUND]
        advice = encoding_advice(around.encode("utf-8", errors="surrogateescape"))
        return (
            f"the byte 0x{code - 0xDC00:02X} at character {found.start() + 1} does not belong to the encoding "
            f"the file was read in; {advice}"
        )
    return f"half a character (\\u{code:04x}) stands without its other half; write the whole character"


def _too_deep() -> str:
    return f"lists and objects are nested deeper than {MAX_DEPTH} levels"
