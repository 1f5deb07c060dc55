"""Regular expressions by RE2, whose time grows with the length of a text and no faster, whoever wrote the pattern.

RE2 comes with pyarrow. It knows no look-around and no back references.
"""

from __future__ import annotations

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from backend.utils.text_utils import shorten

MAX_PATTERN_CHARACTERS = 10_000


def found_in(pattern: str, text: str) -> bool:
    """Return whether ``pattern``, which must have no fault, matches somewhere in ``text``."""
    return bool(pc.match_substring_regex(pa.array([_valid(text)]), _valid(pattern))[0].as_py())


def pattern_fault(pattern: str) -> str:
    """Return why a pattern cannot be used, or ""."""
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        return f"it is longer than {MAX_PATTERN_CHARACTERS:,} characters"
    try:
        found_in(pattern, "")
    except pa.ArrowInvalid as error:
        return shorten(str(error).removeprefix("Invalid regular expression: ").rstrip(". "), 200)
    return ""


def _valid(text: str) -> str:
    """Return the text with U+FFFD for each half of a surrogate pair, which UTF-8 cannot hold."""
    return text if text.isascii() else text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
