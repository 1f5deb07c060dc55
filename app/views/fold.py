"""Draw long texts folded after a dozen lines. The browser unfolds them, without running the page again.

The text is escaped, never interpreted.
"""

from __future__ import annotations

import html

import streamlit as st

FOLDED_LINES = 12
WIDE, CELL, NARROW = 90, 60, 45
"""Characters a line, roughly: of the whole page, of a table's cell, and of one of two columns."""
FOLD_STYLE = f"""
<style>
.ts-text {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
.ts-text:has(+ details:not([open])) {{ display: -webkit-box; -webkit-box-orient: vertical;
  -webkit-line-clamp: {FOLDED_LINES}; overflow: hidden; }}
.ts-unfold summary {{ display: inline-block; cursor: pointer; text-decoration: underline; padding: .3rem 0; }}
.ts-unfold[open] .ts-more, .ts-unfold:not([open]) .ts-less {{ display: none; }}
</style>
"""
_UNFOLD = (
    '<details class="ts-unfold"><summary><span class="ts-more">Show all</span>'
    '<span class="ts-less">Show less</span></summary></details>'
)


def draw_text(text: str, *, width: int = WIDE) -> None:
    """Draw ``text`` as it is, folded beyond a dozen lines of ``width`` characters."""
    if is_long(text, width):
        st.html(FOLD_STYLE + folding(html.escape(text), text, width))
    else:
        st.text(text)


def folding(body: str, text: str, width: int) -> str:
    """Return ``body``, the HTML of ``text``, with a fold if the text is long; needs ``FOLD_STYLE``."""
    return f'<div class="ts-text">{body}</div>{_UNFOLD if is_long(text, width) else ""}'


def is_long(text: str, width: int) -> bool:
    """Return whether ``text`` has more than a dozen lines of ``width`` characters."""
    return sum(1 + len(line) // width for line in text.splitlines()) > FOLDED_LINES
