"""A conversation, and how sure a model was of every token. What a model says is text and is never interpreted."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.views.table import draw_table
from app.views.token_view import shown

_STYLE = """
<style>
.ts-sure { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .9rem;
  line-height: 2; white-space: pre-wrap; overflow-wrap: anywhere; }
.ts-sure span { border-radius: 3px; padding: 1px 0; border-right: 1px solid rgba(128,128,128,.45); }
.ts-mark { outline: 2px dotted currentColor; }
</style>
"""
_ICONS = {"user": ":material/person:", "assistant": ":material/graphic_eq:"}


def draw_messages(messages: Sequence[Mapping[str, str]]) -> None:
    """The turns so far."""
    for message in messages:
        with st.chat_message(message["role"], avatar=_ICONS.get(message["role"])):
            st.text(message["content"])
            if message.get("note"):
                st.caption(message["note"])


def draw_sureness(tokens: Sequence[Mapping[str, Any]], first_difference: int | None = None) -> None:
    """Every token over a colour for its probability, which a pointer names; a mark where two answers part."""
    spans = []
    for place, token in enumerate(tokens):
        sure = probability(token)
        mark = ' class="ts-mark"' if place == first_difference else ""
        title = html.escape(f"{sure:.1%}", quote=True)
        spans.append(
            f'<span{mark} style="{_colour(sure)}" title="{title}">{shown(str(token["text"]))}</span>'
        )
    st.html(f'{_STYLE}<div class="ts-sure">{"".join(spans)}</div>')


def draw_prompt(prompt: Mapping[str, Any]) -> None:
    """The exact text the model was given, its own marks included."""
    st.caption(f"{len(prompt['tokens']):,} tokens")
    st.code(str(prompt["text"]), language=None, wrap_lines=True)


def draw_alternatives(tokens: Sequence[Mapping[str, Any]]) -> None:
    """What else the model could have said at every place, as a table."""
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
    """One of two answers."""
    st.markdown(f"**{title}**")
    with st.container(border=True):
        st.text(str(side["text"]) or "(it said nothing)")
    draw_sureness(side["tokens"], first_difference)


def probability(token: Mapping[str, Any]) -> float:
    """How likely the model found a token, 0 to 1."""
    given = token.get("probability")
    if isinstance(given, int | float):
        return float(given)
    logprob = token.get("logprob")
    return math.exp(logprob) if isinstance(logprob, int | float) else 0.0


def _share(probability: float) -> str:
    return "<1%" if probability < 0.01 else f"{probability:.0%}"


def _colour(sure: float) -> str:
    """Red where the model guessed, none where it was sure; the text keeps its own colour."""
    return f"background: rgba(220,120,40,{0.55 * (1 - min(1.0, max(0.0, sure))):.2f})"
