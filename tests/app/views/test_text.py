"""Data stays data, and figures read as people say them: app/views/text.py."""

from __future__ import annotations

import math
import re
import string
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from app.views.text import ago, figure, in_local_time, plain, rough, size, title_of
from tests.app.reading import unescaped

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![](http://192.0.2.1/x.png)",
    "**bold** _it_ `code` ~~no~~",
    "# heading",
    "- item",
    "1. item",
    ":red[colour] :material/home: :smile:",
    "$x^2$",
    "http://192.0.2.1/ www.example.org a@example.org",
    "&lt;b&gt; &amp;",
    "a | b\n--|--\n1 | 2",
    "---",
    "    indented",
    "```\nfence",
]


class TestPlain:
    @pytest.mark.parametrize("text", HOSTILE)
    def test_it_is_one_paragraph_that_shows_exactly_the_text(self, text: str) -> None:
        tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(plain(text))
        assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
        shown = tokens[1].children or []
        assert {child.type for child in shown} <= {"text", "text_special"}
        said = "".join(child.content for child in shown).replace("\N{WORD JOINER}", "")
        assert said == " ".join(text.split())

    @pytest.mark.parametrize("text", [":material/home:", ":smile:", "http://a.b", "www.a.b", "x@y.z"])
    def test_what_works_even_when_escaped_is_broken_apart(self, text: str) -> None:
        assert re.search("[:w@]\N{WORD JOINER}|\\\\:\N{WORD JOINER}", plain(text))

    @given(st.text(alphabet=string.printable, max_size=100))
    def test_nothing_gets_lost(self, text: str) -> None:
        assert " ".join(unescaped(plain(text)).split()) == " ".join(shown(text).split())

    def test_long_text_is_cut(self) -> None:
        assert len(unescaped(plain("a" * 1000, 50))) == 50


def shown(text: str) -> str:
    return "".join("·" if ord(char) < 32 else char for char in " ".join(text.split()))


class TestFigures:
    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (None, "–"),
            (math.nan, "–"),
            (0.73641, "0.7364"),
            (12345.6, "12,346"),
            (0.00012, "0.00012"),
            (0.0, "0"),
        ],
    )
    def test_a_number(self, value: float | None, words: str) -> None:
        assert figure(value) == words

    @pytest.mark.parametrize(
        ("count", "words"),
        [(0, "0 B"), (1023, "1,023 B"), (1024, "1 KiB"), (3 * 2**29, "1.5 GiB"), (2**60, "1,048,576.0 TiB")],
    )
    def test_bytes(self, count: int, words: str) -> None:
        assert size(count) == words

    @pytest.mark.parametrize(
        ("seconds", "words"),
        [(0, "0 s"), (89, "89 s"), (91, "2 min"), (5399, "1 h 30 min"), (90_000, "25 h 00 min")],
    )
    def test_w19_a_duration(self, seconds: float, words: str) -> None:
        assert rough(seconds) == words

    @pytest.mark.parametrize(
        ("moment", "words"),
        [
            ("2026-01-02T12:00:00+00:00", "just now"),
            ("2026-01-02T11:57:00+00:00", "3 min ago"),
            ("2026-01-02T12:00:00+02:00", "2 h ago"),
            ("2025-12-31T12:00:00+00:00", "2 d ago"),
            ("2026-01-02T13:00:00+00:00", "just now"),
            ("", ""),
            ("yesterday", ""),
        ],
    )
    def test_f33_how_long_ago(self, moment: str, words: str) -> None:
        assert ago(moment, datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)) == words

    @pytest.mark.parametrize(
        ("run", "name", "title"),
        [
            ("20260101-120000-food-ab12", "", "food-ab12"),
            ("20260101-120000-food-ab12", "mine", "mine"),
            ("copied", "", "copied"),
            ("20260101-120000-", "", "20260101-120000-"),
        ],
    )
    def test_a_title(self, run: str, name: str, title: str) -> None:
        assert title_of(run, name) == title

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("It began on 2026-01-02T23:30:05.132+00:00. So.", "It began on 03 Jan 2026, 00:30. So."),
            ("2026-07-02T12:00:00Z to 2026-07-02T12:00:00+02:00", "02 Jul 2026, 14:00 to 02 Jul 2026, 12:00"),
            (
                "2026-13-02T12:00:00Z and 9999-12-31T23:59:59Z",
                "2026-13-02T12:00:00Z and 9999-12-31T23:59:59Z",
            ),
            ("step 12 on 2026-01-02", "step 12 on 2026-01-02"),
        ],
    )
    def test_f33_a_time_where_the_person_is(self, text: str, told: str) -> None:
        said, moments = in_local_time(text, ZoneInfo("Europe/Berlin"))
        assert said == told
        assert all(moment in text for moment in moments)
        assert len(moments) == text.count("T")
