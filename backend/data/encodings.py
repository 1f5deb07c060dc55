"""Detect the encoding of a text file by its bytes, without guessing.

A byte-order mark decides; without one, UTF-16 shows by its zero bytes; everything else is read as UTF-8. Bytes that
are not UTF-8 become lone surrogates, so that the row with them is refused and the others stay readable.
"""

from __future__ import annotations

import codecs
import io
from typing import Any

from backend.errors import DataError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def detect_encoding(head: bytes) -> str:
    """Return the codec for a file that begins with ``head``: by byte-order mark, by zero bytes, else UTF-8."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    pairs = len(head) // 2
    if pairs >= 2:
        high, low = head[0 : 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
        if low > 0.3 * pairs and high < 0.05 * pairs:
            return "utf-16-le"
        if high > 0.3 * pairs and low < 0.05 * pairs:
            return "utf-16-be"
    return "utf-8"


def is_utf8(head: bytes) -> bool:
    """Return whether the beginning of a file is UTF-8; a character cut in two at its end is ignored."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def open_text(stream: io.BufferedReader[Any], encoding: str, newline: str = "") -> io.TextIOWrapper:
    """Return the stream as text; bytes that are not of ``encoding`` become lone surrogates.

    ``newline`` is as in ``open`` ('' leaves line endings as they are).
    """
    return io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline=newline)


def check_encoding(encoding: str) -> str:
    """Return the name of a text encoding that Python knows; raises ``DataError`` for any other."""
    try:
        " ".encode(encoding)
    except (LookupError, UnicodeError, ValueError):
        raise DataError(
            f"The encoding {encoding!r} is not known.",
            remedy="Use a name such as utf-8, utf-16, cp1252, latin-1, gb18030 or shift_jis.",
            code="unknown-encoding",
        ) from None
    return encoding
