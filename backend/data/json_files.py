"""JSON in every arrangement people write it: a row per line, an array, one object, several in a row, wrapped.

Lines are read one by one, so that a broken one costs only itself. Everything else is scanned value by value
from a window of the file; there a syntax error makes the rest unreadable and the whole file is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from backend.data.exact_json import ExactDecoder, MalformedJsonError, surrogate_reason
from backend.data.lines import bounded_lines
from backend.data.records import Record, Rejected, excerpt
from backend.errors import DataError

WRAPPERS = ("data", "rows", "train", "examples", "items", "records", "instances")

_SPACE = " \t\r\n"
_WRAPPED_FIRST = re.compile(r'\s*\{\s*"(?:' + "|".join(WRAPPERS) + r')"\s*:\s*\[')
_LINES_LOOKED_AT = 20


def read_json(
    stream: TextIO, head: str, name: str, limit: int, *, by_line: bool = False
) -> Iterator[Record | Rejected]:
    """The objects of a JSON file. ``head`` is its beginning and decides how the file is laid out.

    ``by_line`` says that the file's ending promises a row per line; ``limit`` is the most characters one row
    may have. Raises ``DataError`` when a file that is not a row per line is broken somewhere.
    """
    if _row_per_line(head, by_line=by_line):
        yield from read_lines(stream, name, limit)
        return
    for number, (value, raw) in enumerate(_values(stream, name, limit), 1):
        yield _as_record(value, f"{name}:{number}", raw)


def read_lines(stream: TextIO, name: str, limit: int) -> Iterator[Record | Rejected]:
    """One object a line; blank lines are no rows, and a broken line is rejected with its number."""
    decoder = ExactDecoder()
    for number, text, too_long in bounded_lines(stream, limit):
        if text.isspace():
            continue
        place = f"{name}:{number}"
        if too_long:
            yield Rejected(place, f"the line has more than {limit:,} characters", excerpt(text))
            continue
        if reason := surrogate_reason(text):
            yield Rejected(place, reason, excerpt(text))
            continue
        try:
            value = decoder.decode(_without_comma(text))
        except ValueError as error:
            yield Rejected(place, f"not valid JSON: {error}", excerpt(text))
            continue
        yield _as_record(value, place, text)


def _without_comma(line: str) -> str:
    """A line that was taken out of a list, without the comma that parted it from the next."""
    bare = line.rstrip()
    return bare[:-1] if bare.endswith("},") else line


def _as_record(value: Any, place: str, raw: str | None) -> Record | Rejected:
    if isinstance(value, _Refused):
        return Rejected(place, value.reason, excerpt(value.raw))
    if isinstance(value, dict):
        return Record(place, value)
    kind = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )
    shown = raw if raw is not None else json.dumps(value, ensure_ascii=False)
    return Rejected(
        place, f"a row must be an object with named fields, but here stands {kind}", excerpt(shown)
    )


def _row_per_line(head: str, *, by_line: bool) -> bool:
    lines = [line for line in head.split("\n") if line.strip(_SPACE)]
    whole = lines[:-1] if len(lines) > _LINES_LOOKED_AT else lines
    decoder = ExactDecoder()
    for line in whole[:_LINES_LOOKED_AT]:
        if line.startswith("{") and line.rstrip().endswith("}"):
            try:
                value = decoder.decode(line)
            except MalformedJsonError:
                continue
            except ValueError:
                return True
            return len(whole) > 1 or _wrapped(value) is None
    if by_line and whole and all(line.startswith("{") and line.rstrip().endswith("}") for line in whole):
        return True
    starts_as_value = head.lstrip(_SPACE)[:1] in ("{", "[")
    return by_line and not (starts_as_value and len(whole) > 1)


class _Refused:
    """A value that was scanned to its end but cannot be used."""

    def __init__(self, reason: str, raw: str) -> None:
        self.reason = reason
        self.raw = raw


def _wrapped(value: Any) -> list[Any] | None:
    """The rows inside an object that only wraps them, such as ``{"data": [...]}``; None for any other value."""
    if isinstance(value, dict):
        for key in WRAPPERS:
            inner = value.get(key)
            if isinstance(inner, list) and inner and all(isinstance(item, dict) for item in inner):
                return inner
    return None


def _values(stream: TextIO, name: str, limit: int) -> Iterator[tuple[Any, str | None]]:
    """The values of a file in order: those that follow each other, and the elements of arrays."""
    window = _Window(stream, name, limit)
    window.next_character()
    if wrapper := window.match(_WRAPPED_FIRST):
        window.skip(wrapper)
        yield from _elements(window)
        window.close_wrapper()
    first = not wrapper
    while (character := window.next_character()) != "":
        if character == "[":
            window.skip(1)
            yield from _elements(window)
        else:
            value, source = window.value()
            alone = first and window.next_character() == ""
            inner = _wrapped(value) if alone else None
            yield from [(item, None) for item in inner] if inner else [(value, source)]
        first = False
        if window.next_character() == ",":
            window.skip(1)


def _elements(window: _Window) -> Iterator[tuple[Any, str | None]]:
    while window.next_character() != "]":
        yield window.value()
        separator = window.next_character()
        if separator not in (",", "]"):
            raise window.broken("a comma or the end of the list is missing")
        if separator == ",":  # one behind the last value is forgiven
            window.skip(1)
    window.skip(1)


class _Window:
    """The part of a text being scanned; it grows only as far as one value needs, up to the limit."""

    def __init__(self, stream: TextIO, name: str, limit: int) -> None:
        self._stream = stream
        self._name = name
        self._limit = limit
        self._text = ""
        self._at = 0
        self._lines_before = 0
        self._ended = False
        self._decoder = ExactDecoder()

    def next_character(self) -> str:
        """The next character that is not white space, without taking it; '' at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def skip(self, count: int) -> None:
        """Go on by ``count`` characters."""
        self._at += count

    def match(self, pattern: re.Pattern[str]) -> int:
        """The length of the pattern's match here, 0 without one."""
        if len(self._text) - self._at < 200:
            self._read_more()
        found = pattern.match(self._text, self._at)
        return found.end() - self._at if found else 0

    def value(self) -> tuple[Any, str | None]:
        """The value that begins here, with its source when it is no object."""
        self.next_character()
        while True:
            try:
                value, end = self._decoder.scan(self._text, self._at)
                if end < len(self._text) or self._ended:
                    break
            except MalformedJsonError as error:
                if self._ended:
                    raise self.broken(str(error).partition(" at character")[0], error.position) from None
            except ValueError as error:
                raise self.broken(str(error)) from None
            if len(self._text) - self._at > self._limit:
                raise self.broken(f"one value has more than {self._limit:,} characters, or never ends")
            self._read_more()
        source = self._text[self._at : end]
        self._at = end
        try:
            if reason := surrogate_reason(source):
                raise ValueError(reason)
            self._decoder.check(source, value)
        except ValueError as error:
            return _Refused(str(error), source), source
        return value, None if isinstance(value, dict) else source

    def close_wrapper(self) -> None:
        """Read the rest of the object that wrapped an array; its other fields are no rows."""
        if self.next_character() == "}":
            self.skip(1)
            return
        if self.next_character() != ",":
            raise self.broken("a comma or the end of the object is missing")
        self._text = "{" + self._text[self._at + 1 :]
        self._at = 0
        self.value()

    def broken(self, what: str, position: int | None = None) -> DataError:
        """The error that refuses the file, with the line and column of ``position`` (default: here)."""
        at = min(self._at if position is None else position, len(self._text))
        line = self._lines_before + self._text.count("\n", 0, at) + 1
        column = at - (self._text.rfind("\n", 0, at) + 1) + 1
        return DataError(
            f"{self._name} is not valid JSON: {what} (line {line}, column {column}).",
            remedy="Mend the file at that place, or write one object per line (JSONL).",
            code="broken-json",
        )

    def _read_more(self) -> bool:
        if self._ended:
            return False
        if self._at:
            self._lines_before += self._text.count("\n", 0, self._at)
            self._text = self._text[self._at :]
            self._at = 0
        chunk = self._stream.read(max(1 << 16, len(self._text)))
        self._ended = not chunk
        self._text += chunk
        return bool(chunk)
