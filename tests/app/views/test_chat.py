"""Conversations and sureness: app/views/chat.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.views.chat import probability
from tests.app.answering import PROMPT, TOKENS


def page(what, value) -> None:  # type: ignore[no-untyped-def]
    """A page with one drawing."""
    from app.views import chat

    getattr(chat, what)(*value)


def shown(what: str, *value: object) -> AppTest:
    return AppTest.from_function(page, args=(what, value), default_timeout=30).run()


def test_what_a_model_says_is_text() -> None:
    turns = [
        {"role": "user", "content": "**hi** <b>"},
        {"role": "assistant", "content": "![x](http://elsewhere/x.png) <script>", "note": "Stopped."},
    ]
    app = shown("draw_messages", turns)
    assert [each.value for each in app.text] == [turn["content"] for turn in turns]
    assert [each.value for each in app.caption] == ["Stopped."]
    assert not app.markdown


def test_sureness_escapes_and_marks_where_answers_part() -> None:
    body = shown("draw_sureness", TOKENS, 1).get("html")[0].proto.body
    assert "&lt;b&gt;Meat" in body
    assert '<span class="ts-mark" style="background: rgba(220,120,40,0.50)" title="10.0%">!</span>' in body


def test_alternatives_leave_out_what_was_said() -> None:
    rows = shown("draw_alternatives", TOKENS).dataframe[0].value.to_dict("records")
    assert rows[1]["instead"] == "? 80%"
    assert rows[0]["probability"] == 0.9


def test_the_prompt_is_shown_as_it_is() -> None:
    assert shown("draw_prompt", PROMPT).code[0].value == PROMPT["text"]


def test_an_empty_answer_says_so() -> None:
    side = {"model": "base", "text": "", "tokens": []}
    assert shown("draw_side", "Base", side, None).text[0].value == "(empty answer)"


@pytest.mark.parametrize(
    ("token", "sure"),
    [({"probability": 0.5}, 0.5), ({"logprob": -1.0}, math.exp(-1)), ({"logprob": None}, 0.0), ({}, 0.0)],
)
def test_probability(token: dict[str, Any], sure: float) -> None:
    assert probability(token) == sure
