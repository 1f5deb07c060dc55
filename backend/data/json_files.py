"""Read JSON in every arrangement people write: a row per line, an array, one object, several objects, wrapped lists.

Lines are read one by one, so that a broken one is refused alone. Everything else is scanned value by value from a
window of the file; there a syntax error makes the rest unreadable, and the whole file is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from backend.data.chat import is_conversation
from backend.data.exact_json import ExactDecoder, MalformedJsonError, Spelled, surrogate_reason
from backend.data.json_lists import Lists, lists_in, names_rows
from backend.data.lines import bounded_lines
from backend.data.records import Record, Rejected, Skipped, excerpt
from backend.errors import DataError

_SPACE = " \t\r\n"
_LISTED_FIRST = re.compile(r'\s*\{\s*"([^"\\]{1,40})"\s*:\s*\[')
_LINES_LOOKED_AT = 20


def read_json(
    stream: TextIO, head: str, name: str, limit: int, *, by_line: bool = False, split: str | None = None
) -> Iterator[Record | Rejected | Skipped]:
    """Yield the objects of a JSON file. ``head`` is its beginning and decides the arrangement.

    ``by_line``: the file's suffix promises a row per line. ``limit`` is the most characters one row may have. Of an
    object with several lists the one of ``split`` is read, and the others come out as ``Skipped``.
    Raises ``DataError`` when a file that is not a row per line has a syntax error, or has no such split.
    """
    if _row_per_line(head, by_line=by_line):
        Lists(name, split).none_here()
        yield from read_lines(stream, name, limit)
        return
    window = _Window(stream, name, limit)
    number, texts = 0, False
    for item in _values(window, Lists(name, split)):
        if isinstance(item, Skipped):
            yield item
            continue
        number += 1
        value, raw = item
        texts = texts or (number == 1 and isinstance(value, str) and not isinstance(value, Spelled))
        if texts and isinstance(value, str) and not isinstance(value, Spelled):
            yield Record(f"{name}:{number}", {"text": value})
        else:
            yield _as_record(value, f"{name}:{number}", raw)


def read_lines(stream: TextIO, name: str, limit: int) -> Iterator[Record | Rejected]:
    """Yield one object per line; blank lines are skipped, and a broken line is rejected with its number."""
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
    """Return a line without the comma after it, as in lines copied out of a list."""
    bare = line.rstrip()
    return bare[:-1] if bare.endswith(("},", "],")) else line


def _as_record(value: Any, place: str, raw: str | None) -> Record | Rejected:
    if isinstance(value, _Refused):
        return Rejected(place, value.reason, excerpt(value.raw))
    if isinstance(value, dict):
        return Record(place, value)
    if is_conversation(value):
        return Record(place, {"messages": value})
    kind = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )
    shown = raw if raw is not None else json.dumps(value, ensure_ascii=False)
    return Rejected(place, f"a row must be an object with named fields, but this is {kind}", excerpt(shown))


def _row_per_line(head: str, *, by_line: bool) -> bool:
    lines = [line.strip(_SPACE) for line in head.split("\n") if line.strip(_SPACE)]
    whole = (lines[:-1] if len(lines) > _LINES_LOOKED_AT else lines)[:_LINES_LOOKED_AT]
    if not whole:
        return by_line
    if whole[0].startswith("["):
        return by_line and _list_per_line(whole)
    if _opens(whole[0], by_line=by_line):
        return False
    objects = [line.removesuffix(",").rstrip(_SPACE) for line in whole]
    objects = [line for line in objects if line.startswith("{") and line.endswith("}")]
    first = next((found for line in objects if (found := _decoded(line)) is not None), None)
    if first is not None:
        return len(whole) > 1 or (by_line and not lists_in(first))
    return by_line and (len(objects) == len(whole) or not (whole[0].startswith("{") and len(whole) > 1))


def _list_per_line(lines: list[str]) -> bool:
    """Return whether each line holds a whole list (one conversation), rather than a part of one big list."""
    whole = [value for line in lines if isinstance(value := _decoded(line.removesuffix(",")), list)]
    return len(whole) > 1 or (len(lines) == 1 and any(map(is_conversation, whole)))


def _opens(line: str, *, by_line: bool) -> bool:
    """Return whether a first line opens an object that spans several lines."""
    listed = _LISTED_FIRST.match(line)
    opened = line.startswith("{") and not line.endswith(("}", "},")) and _decoded(line) is None
    return opened and (not by_line or bool(listed and names_rows(listed[1])))


def _decoded(line: str) -> Any:
    """Return the value of a line; True for a value that cannot be used, None for an incomplete one."""
    try:
        return ExactDecoder().decode(line)
    except MalformedJsonError:
        return None
    except ValueError:
        return True


class _Refused:
    """A complete value that cannot be used."""

    def __init__(self, reason: str, raw: str) -> None:
        self.reason = reason
        self.raw = raw


_Value = tuple[Any, str | None]


def _values(window: _Window, lists: Lists) -> Iterator[_Value | Skipped]:
    """Yield the values of a file in order: top-level values, and the elements of top-level arrays."""
    window.next_character()
    listed = window.match(_LISTED_FIRST)
    first = not (listed and names_rows(listed[1]))
    if not first:
        yield from _members(window, lists)
    while (character := window.next_character()) != "":
        if character == "[":
            if first:
                lists.none_here()
            window.skip(1)
            yield from _elements(window)
        else:
            value, source = window.value()
            yield from _unwrapped(value, source, lists, alone=first and window.next_character() == "")
        first = False
        if window.next_character() == ",":
            window.skip(1)


def _unwrapped(value: Any, source: str | None, lists: Lists, *, alone: bool) -> Iterator[_Value | Skipped]:
    """Yield a value, or the rows inside it if it is the file's only value and just wraps them."""
    found = lists_in(value) if alone else {}
    if not found:
        lists.none_here()
        if alone and isinstance(value, dict):
            lists.refuse_unknown(value)
        yield value, source
        return
    for key, inner in found.items():
        if lists.takes(key):
            yield from ((item, None) for item in inner)
        else:
            yield lists.skipped(key, len(inner))
    lists.close()


def _members(window: _Window, lists: Lists) -> Iterator[_Value | Skipped]:
    """Yield the rows of an object that begins with a list of rows; its other fields are not rows."""
    window.skip(1)
    while window.next_character() != "}":
        key = window.key()
        if not names_rows(key) or window.next_character() != "[":
            window.value()
        else:
            window.skip(1)
            if lists.takes(key):
                yield from _elements(window)
            elif count := sum(1 for _ in _elements(window)):
                yield lists.skipped(key, count)
        separator = window.next_character()
        if separator not in (",", "}"):
            raise window.broken("a comma or the end of the object is missing")
        if separator == ",":
            window.skip(1)
    window.skip(1)
    lists.close()


def _elements(window: _Window) -> Iterator[tuple[Any, str | None]]:
    while window.next_character() != "]":
        yield window.value()
        separator = window.next_character()
        if separator not in (",", "]"):
            raise window.broken("a comma or the end of the list is missing")
        if separator == ",":  # also after the last value, which JSON forbids but people write
            window.skip(1)
    window.skip(1)


class _Window:
    """The part of a text that is being scanned; it grows only as far as one value needs, up to the limit."""

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
        """Return the next character that is not white space, without consuming it; '' at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def skip(self, count: int) -> None:
        """Consume ``count`` characters."""
        self._at += count

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Return the pattern's match at this position, if any."""
        if len(self._text) - self._at < 200:
            self._read_more()
        return pattern.match(self._text, self._at)

    def key(self) -> str:
        """Consume and return the name of an object's next field, and its colon."""
        name, _ = self.value()
        if not isinstance(name, str) or isinstance(name, Spelled) or self.next_character() != ":":
            raise self.broken("a name in double quotation marks and a colon are missing")
        self.skip(1)
        return name

    def value(self) -> tuple[Any, str | None]:
        """Consume and return the value that begins here, with its source text if it is not an object."""
        self.next_character()
        while True:
            try:
                value, end = self._decoder.scan(self._text, self._at)
                if (
                    end < len(self._text) or self._ended
                ):  # a number at the very end may go on in the next chunk
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

    def broken(self, what: str, position: int | None = None) -> DataError:
        """Return the error that refuses the file, with the line and column of ``position`` (default: here)."""
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
