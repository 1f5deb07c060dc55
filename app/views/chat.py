"""Draw a conversation and the probability of every token. A model's text is escaped, never interpreted."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.views.fold import FOLD_STYLE, NARROW, WIDE, draw_text, folding
from app.views.table import draw_table
from app.views.token_view import shown

_STYLE = """
<style>
.ts-sure { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .9rem;
  line-height: 2; }
.ts-sure .ts-text span { border-radius: 3px; padding: 1px 0; border-right: 1px solid rgba(128,128,128,.45); }
.ts-mark { outline: 2px dotted currentColor; }
</style>
"""
_ICONS = {"user": ":material/person:", "assistant": ":material/graphic_eq:"}


def draw_messages(messages: Sequence[Mapping[str, str]]) -> None:
    """Draw the messages so far."""
    for message in messages:
        with st.chat_message(message["role"], avatar=_ICONS.get(message["role"])):
            draw_text(message["content"])
            if message.get("note"):
                st.caption(message["note"])


def draw_sureness(
    tokens: Sequence[Mapping[str, Any]], first_difference: int | None = None, *, width: int = WIDE
) -> None:
    """Draw every token on a colour for its probability, shown on hover, with a mark at ``first_difference``.

    Folded beyond a dozen lines of ``width`` characters.
    """
    spans = []
    for place, token in enumerate(tokens):
        sure = probability(token)
        mark = ' class="ts-mark"' if place == first_difference else ""
        title = html.escape(f"{sure:.1%}", quote=True)
        spans.append(
            f'<span{mark} style="{_colour(sure)}" title="{title}">{shown(str(token["text"]))}</span>'
        )
    text = "".join(str(token["text"]) for token in tokens)
    st.html(f'{FOLD_STYLE}{_STYLE}<div class="ts-sure">{folding("".join(spans), text, width)}</div>')


def draw_prompt(prompt: Mapping[str, Any]) -> None:
    """Draw the exact prompt of the model, with its special tokens."""
    st.caption(f"{len(prompt['tokens']):,} tokens")
    st.code(str(prompt["text"]), language=None, wrap_lines=True)


def draw_alternatives(tokens: Sequence[Mapping[str, Any]]) -> None:
    """Draw a table of the other likely tokens at every position."""
    table = [
        {
            "token": repr(token["text"])[1:-1],
            "probability": probability(token),
            "instead": ", ".join(
                f"{repr(other['text'])[1:-1]} {_share(probability(other))}"
                for other in token.get("top") or ()
                if other["id"] != token["id"]
            ),
        }
        for token in tokens
    ]
    column = st.column_config.ProgressColumn("probability", min_value=0.0, max_value=1.0, format="percent")
    draw_table(table, column_config={"probability": column})


def draw_side(title: str, side: Mapping[str, Any], first_difference: int | None) -> None:
    """Draw one of two answers."""
    st.markdown(f"**{title}**")
    with st.container(border=True):
        draw_text(str(side["text"]) or "(empty answer)", width=NARROW)
    draw_sureness(side["tokens"], first_difference, width=NARROW)


def probability(token: Mapping[str, Any]) -> float:
    """Return the probability that the model gave a token, 0 to 1."""
    given = token.get("probability")
    if isinstance(given, int | float):
        return float(given)
    logprob = token.get("logprob")
    return math.exp(logprob) if isinstance(logprob, int | float) else 0.0


def _share(probability: float) -> str:
    return "<1%" if probability < 0.01 else f"{probability:.0%}"


def _colour(sure: float) -> str:
    """Return the background of a token: stronger the less likely it was; the text keeps its colour."""
    return f"background: rgba(220,120,40,{0.55 * (1 - min(1.0, max(0.0, sure))):.2f})"
