"""Small functions on text: compare, shorten, show safely, count."""

from __future__ import annotations

import re
import unicodedata
from difflib import SequenceMatcher

_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


_BETWEEN_WORDS = re.compile(r"[\W_]+")


def normalise(text: str) -> str:
    """Return the text for comparison: NFKC, lower case, runs of spaces and punctuation as one space."""
    folded = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return _BETWEEN_WORDS.sub(" ", folded.lower()).strip()


def signs(text: str) -> str:
    """Return the signs that ``normalise`` drops although they change the meaning: of sums, and of C++ and C#."""
    return " ".join(found.strip() for found in _SIGNS.findall(text))


_OPERATOR = r"[-+*/×÷%=<>^&|]"
# Possessive (++) and anchored by a lookbehind: a long line of dashes would take quadratic time otherwise.
_SIGNS = re.compile(
    rf"(?<=[^\W\d])[+#]++|(?<!{_OPERATOR}){_OPERATOR}++(?=\s?\d)|(?<=\d)\s?{_OPERATOR}++|"
    r"(?<=\w\s)[+*/×÷=<>^&|]++(?=\s\w)"
)
_INDENT = re.compile(r"(?<=\n)[ \t]++(?=\S)")


def is_blank(text: str) -> bool:
    """Return whether a text has no visible character: white space, zero-width characters, fillers, lone marks."""
    return not any(
        unicodedata.category(each) not in _UNSEEN and each not in _FILLERS for each in text.strip()
    )


_UNSEEN = {"Cc", "Cf", "Zs", "Zl", "Zp", "Mn", "Me"}
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"


def indents(text: str) -> str:
    """Return the indentation of every line but the first, one per line: in code it changes the meaning."""
    return "\n".join(_INDENT.findall(text))


def shorten(text: str, limit: int = 120) -> str:
    """Return the text on one line without control characters, cut to ``limit`` with an ellipsis in the middle."""
    line = without_controls(" ".join(text.split()))
    if len(line) <= limit:
        return line
    head = (limit - 1) * 2 // 3
    return f"{line[:head]}…{line[len(line) - (limit - 1 - head) :]}"


def without_controls(text: str) -> str:
    """Return the text with each control character except the line break as ``·``, safe for a terminal."""
    return _CONTROLS.sub("·", text)


def writable(text: str) -> str:
    """Return the text with lone surrogates, as in undecodable file names, shown as escapes: UTF-8 can hold it."""
    return text if text.isascii() else text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def one_edit_apart(left: str, right: str) -> bool:
    """Return whether one inserted, deleted or replaced character turns one text into the other."""
    if left == right or abs(len(left) - len(right)) > 1:
        return False
    codes = SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    changes = [
        (left_end - left_at, right_end - right_at)
        for tag, left_at, left_end, right_at, right_end in codes
        if tag != "equal"
    ]
    return len(changes) == 1 and max(changes[0]) == 1


def sentence(text: str) -> str:
    """Return ``text`` stripped and with a full stop, unless it ends with an end mark already."""
    stripped = text.strip()
    return stripped if stripped.endswith((".", "!", "?", "…")) else f"{stripped}."


def counted(count: int, word: str) -> str:
    """Return the count with its noun: ``1 row``, ``2,000 rows``."""
    return f"{count:,} {word}" + "s" * (count != 1)
