"""Regular expressions in linear time: backend/inference/evals/patterns.py."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.inference.evals.patterns import MAX_PATTERN_CHARACTERS, found_in, pattern_fault


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"^\d+$", "123", True),
        (r"^\d+$", "12a", False),
        (r"(?i)yes", "YES", True),
        (r"b.c", "a\nb\0c", True),
        ("é", "café", True),
        ("a.", "a\ud800", True),
        ("", "", True),
    ],
)
def test_a_pattern_is_searched_for(pattern: str, text: str, found: bool) -> None:
    assert found_in(pattern, text) is found


@given(st.text(alphabet="ab.*|", min_size=1, max_size=6), st.text(alphabet="abc", max_size=8))
def test_simple_patterns_mean_what_they_mean_in_python(pattern: str, text: str) -> None:
    try:
        expected = bool(re.search(pattern, text))
    except re.error:
        return
    assert pattern_fault(pattern) or found_in(pattern, text) == expected


@pytest.mark.parametrize("pattern", [r"(x+x+)+y", r"(a|aa)+$", r"(.*)*(.*)*z", r"(?:x?){50}x{50}y"])
def test_no_pattern_takes_long(pattern: str) -> None:
    started = time.process_time()
    assert not found_in(pattern, "x" * 1_000_000 + "!")
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "missing"),
        (r"^(?!.*sorry)", "perl operator"),
        (r"(a)\1", "escape"),
        ("(((a{1000}){1000}){1000})", "repetition"),
        ("a" * (MAX_PATTERN_CHARACTERS + 1), "10,000"),
    ],
    ids=lambda part: part[:20],
)
def test_a_pattern_that_cannot_be_used_has_a_reason(pattern: str, reason: str) -> None:
    assert reason in pattern_fault(pattern)
    assert pattern_fault("a" * MAX_PATTERN_CHARACTERS) == ""
