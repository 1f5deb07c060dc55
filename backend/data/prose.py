"""Tell prose from code and addresses in a text: no fix may rewrite the latter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_SPANS = re.compile(
    r"```[\s\S]*?(?:```|\Z)|`[^`\n]{1,300}`|(?<![\w+.-])[A-Za-z][A-Za-z0-9+.-]{1,15}://\S++|(?<![\w@])www\.\S++"
)
"""Fenced code, inline code, and addresses."""
_CODE_LINE = re.compile(
    r"[{};]\s*$|=>|::|\$\(|</\w|/>|\w\([^()\n]*+\)|&&|\|\|"
    r"|^\s*+(?:[#$>]\s|#!|//|<[\w!/]|(?:def|class|import|from|return|function|const|let|var|public|private|static|"
    r"elif|else:|SELECT|INSERT|UPDATE|DELETE|CREATE|curl|git|sudo|npm|pip|docker|export)\b)"
    r"|^\s*+(?:if|for|while|with)\b[^\n]*+(?<=:)\s*$|^\s*+[\w.\[\]'\"]++\s*[-+*/]?=[^=]"
)


_WORD_LIKE = re.compile(r"&#?\w{1,8};|\{\{?[\w. ]{1,40}\}\}?|<[A-Za-z_ ]{1,40}>")
"""HTML entities and placeholders: they stand for a word in prose although they look like code."""


def parts(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the pieces of a text in order, each with whether it is prose; joined they are the text."""
    end = 0
    for found in _SPANS.finditer(text):
        yield from _lines(text[end : found.start()])
        yield found.group(), False
        end = found.end()
    yield from _lines(text[end:])


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    for line in text.splitlines(keepends=True):
        yield line, not _CODE_LINE.search(_WORD_LIKE.sub("x", line))


def map_prose(text: str, change: Callable[[str], str]) -> str:
    """Return the text with ``change`` applied to each piece of prose."""
    return "".join(change(part) if is_prose else part for part, is_prose in parts(text))


def prose(text: str) -> str:
    """Return the text without its code and addresses."""
    return "".join(part for part, is_prose in parts(text) if is_prose)
