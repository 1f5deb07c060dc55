"""Draw a row as the model sees it: every token marked as trained, only read, cut, or from the template.

The text is escaped, so that a tag in it is shown and has no effect.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.views.text import plain

MAX_TOKENS = 1500
_STYLE = """
<style>
.ts-tokens { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .9rem;
  line-height: 1.9; white-space: pre-wrap; overflow-wrap: anywhere; }
.ts-tokens span { border-radius: 3px; padding: 1px 0; border-right: 1px solid rgba(128,128,128,.45); }
.ts-trained { background: rgba(34,160,90,.28); border-bottom: 2px solid rgb(34,160,90); }
.ts-template { font-style: italic; border-bottom: 1px dashed rgba(128,128,128,.9); }
.ts-trained.ts-template { border-bottom: 2px dashed rgb(34,160,90); }
.ts-cut { background: rgba(220,70,60,.22); text-decoration: line-through; }
.ts-end { outline: 2px solid rgb(34,160,90); }
</style>
"""
_LEGEND = (
    ("ts-trained", "trained"),
    ("", "only read"),
    ("ts-template", "from the template"),
    ("ts-cut", "cut off"),
    ("ts-trained ts-end", "ends the turn"),
)


def draw_legend() -> None:
    """Draw the legend of the marks."""
    marks = "&ensp;".join(f'<span class="{kind}">&nbsp;{name}&nbsp;</span>' for kind, name in _LEGEND)
    st.html(f'{_STYLE}<div class="ts-tokens" role="note" aria-label="Legend">{marks}</div>')


def draw_row(row: Mapping[str, Any]) -> None:
    """Draw one row of a preview, token by token."""
    tokens: Sequence[Mapping[str, Any]] = row["tokens"]
    trained = sum(token["state"] == "trained" for token in tokens)
    st.markdown(f"**{plain(row['place'])}** · {len(tokens):,} tokens, {trained:,} trained")
    if row["problem"]:
        show = st.warning if row["fate"] == "cut" else st.error
        show(plain(row["problem"], 300))
    st.html(f'{_STYLE}<div class="ts-tokens">{tokens_html(tokens[:MAX_TOKENS])}</div>')
    if len(tokens) > MAX_TOKENS:
        st.caption(f"… and {len(tokens) - MAX_TOKENS:,} more tokens.")


def tokens_html(tokens: Sequence[Mapping[str, Any]]) -> str:
    """Return the tokens as escaped HTML; line ends are shown as ↵."""
    return "".join(f'<span class="{_classes(token)}">{shown(token["text"])}</span>' for token in tokens)


def shown(text: str) -> str:
    """Return a token's text as escaped HTML; line ends are shown as ↵, an empty text as ·."""
    return html.escape(text).replace("\n", "↵\n") or "·"


def _classes(token: Mapping[str, Any]) -> str:
    names = {"trained": ["ts-trained"], "cut": ["ts-cut"]}.get(token["state"], [])
    names = [*names, *["ts-template"] * bool(token["from_template"]), *["ts-end"] * bool(token["ends_turn"])]
    return " ".join(names)
