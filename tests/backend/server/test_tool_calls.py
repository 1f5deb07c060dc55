"""Calls of tools inside an answer: backend/server/tool_calls.py."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.server.tool_calls import CallReader

WEIGH = '<tool_call>{"name": "weigh", "arguments": {"food": "ham"}}</tool_call>'
CALLED = ("weigh", {"food": "ham"})


def read(pieces: list[str]) -> tuple[str, list[Any]]:
    """The text and the calls of an answer that comes in ``pieces``."""
    reader, shown, found = CallReader(), "", []
    for place, piece in enumerate(pieces):
        text, calls = reader.push(piece, last=place == len(pieces) - 1)
        shown += text
        found += calls
    assert [call["index"] for call in found] == list(range(reader.calls))
    assert len({call["id"] for call in found}) == len(found)
    return shown, [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in found]


@pytest.mark.parametrize(
    ("answer", "text", "calls"),
    [
        ("no call \n", "no call \n", []),
        (WEIGH, "", [CALLED]),
        (f"Let me see.\n{WEIGH}\n{WEIGH}\n", "Let me see.", [CALLED, CALLED]),
        (f"{WEIGH} Done.", " Done.", [CALLED]),
        ('<tool_call>{"name": "now"}</tool_call>', "", [("now", {})]),
        ('<tool_call>{"name": "a", "arguments": "{\\"b\\": 1}"}</tool_call>', "", [("a", {"b": 1})]),
        ("a <tool_call>{not json</tool_call> b", "a <tool_call>{not json</tool_call> b", []),
        ('<tool_call>["name"]</tool_call>', '<tool_call>["name"]</tool_call>', []),
        ('<tool_call>{"name": 5}</tool_call>', '<tool_call>{"name": 5}</tool_call>', []),
        ('cut off <tool_call>{"name": "w', 'cut off <tool_call>{"name": "w', []),
        (WEIGH.removesuffix("</tool_call>"), "", [CALLED]),
        (f"Well. {WEIGH}{WEIGH.removesuffix('</tool_call>')}", "Well.", [CALLED, CALLED]),
        ('<tool_call>no<tool_call>{"name": "now"}', '<tool_call>no<tool_call>{"name": "now"}', []),
        ('{"name": "now"}', '{"name": "now"}', []),
        ("a < b <tool", "a < b <tool", []),
        ("</tool_call> first", "</tool_call> first", []),
    ],
)
def test_calls_are_taken_out_and_nothing_is_lost(answer: str, text: str, calls: list[Any]) -> None:
    assert read([answer]) == (text, calls)


PARTS = ["a", " ", "\n", "<", "<tool_call>", "</tool_call>", '{"name": "f", "arguments": {}}', WEIGH, "{}"]


@given(st.lists(st.sampled_from(PARTS), max_size=9).map("".join), st.lists(st.integers(0, 200), max_size=12))
def test_however_it_comes_it_says_the_same(answer: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(answer)) for cut in cuts), len(answer)]
    pieces = [answer[a:b] for a, b in itertools.pairwise(edges)]
    assert read(pieces) == read([answer])


def test_text_is_shown_as_soon_as_it_is_safe() -> None:
    reader = CallReader()
    assert reader.push("Let me <", last=False) == ("Let me", [])
    assert reader.push("3 it.", last=False) == (" <3 it.", [])
