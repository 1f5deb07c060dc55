"""Tokens with their marks: app/views/token_view.py."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.views.token_view import shown, tokens_html


def token(text: str, state: str = "trained", *, template: bool = False, ends: bool = False) -> dict[str, Any]:
    return {"id": 1, "text": text, "state": state, "from_template": template, "ends_turn": ends}


class Reader(HTMLParser):
    """What a browser would see."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, _attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


@pytest.mark.parametrize(
    ("given", "classes"),
    [
        (token("a"), "ts-trained"),
        (token("a", "context"), ""),
        (token("a", "cut"), "ts-cut"),
        (token("a", "context", template=True), "ts-template"),
        (token("a", template=True, ends=True), "ts-trained ts-template ts-end"),
    ],
)
def test_every_state_has_its_mark(given: dict[str, Any], classes: str) -> None:
    assert tokens_html([given]) == f'<span class="{classes}">a</span>'


def test_line_ends_and_empty_tokens_can_be_seen() -> None:
    assert shown("a\n") == "a↵\n"
    assert shown("") == "·"


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs", "Cc")), min_size=1))
)
def test_text_is_text_whatever_it_says(texts: list[str]) -> None:
    reader = read(tokens_html([token(text) for text in texts]))
    assert reader.tags == ["span"] * len(texts)
    assert reader.text == "".join(texts)


def test_a_tag_in_a_token_is_shown() -> None:
    reader = read(tokens_html([token("<img src=x onerror=alert(1)>")]))
    assert reader.tags == ["span"]
