"""Draw a table that is readable on any screen: on a narrow one each row is a card of names and values.

Its cells are escaped, never interpreted.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import streamlit as st

from app.views.fold import CELL, FOLD_STYLE, folding

_STYLE = """
<style>
.ts-table { overflow-x: auto; }
.ts-table table { width: 100%; border-collapse: collapse; font-size: .9rem; }
.ts-table th, .ts-table td { text-align: left; vertical-align: top; font-weight: 400; padding: .5rem .7rem;
  border: 1px solid rgba(128,128,128,.28); min-width: 6rem; }
.ts-table td > div { max-width: 28rem; }
.ts-table thead th { background: rgba(128,128,128,.08); }
@media (max-width: 640px) {
  .ts-table thead { position: absolute; clip-path: inset(50%); height: 1px; overflow: hidden; }
  .ts-table table, .ts-table tbody, .ts-table tr, .ts-table th, .ts-table td { display: block; border: 0; }
  .ts-table tbody tr { border: 1px solid rgba(128,128,128,.28); border-radius: .5rem; margin-bottom: .75rem; }
  .ts-table tbody th { background: rgba(128,128,128,.08); font-weight: 600; }
  .ts-table tbody td { display: grid; grid-template-columns: 40% 1fr; gap: 0 .75rem; padding: .3rem .7rem; }
  .ts-table tbody td.ts-wide { grid-template-columns: 1fr; }
  .ts-table tbody td::before { content: attr(data-name); opacity: .75; overflow-wrap: anywhere; }
}
</style>
"""


def draw_stacked_table(rows: Sequence[Mapping[str, str]]) -> None:
    """Draw one line per row; all rows have the columns of the first, and their first cell is the row's header."""
    names = list(rows[0])
    head = "".join(f'<th role="columnheader" scope="col">{html.escape(name)}</th>' for name in names)
    body = "".join(f'<tr role="row">{_cells(row)}</tr>' for row in rows)
    st.html(
        f'{FOLD_STYLE}{_STYLE}<div class="ts-table"><table role="table">'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table></div>'
    )


def _cells(row: Mapping[str, str]) -> str:
    """Return the cells of a row, with roles: drawn as cards, a table is none to a screen reader without them."""
    (_, first), *others = row.items()
    head = f'<th role="rowheader" scope="row">{_text(first)}</th>'
    return head + "".join(
        f'<td role="cell" class="{"ts-wide" * (len(value) > CELL)}" data-name="{html.escape(name)}">'
        f"<div>{_text(value)}</div></td>"
        for name, value in others
    )


def _text(value: str) -> str:
    return folding(html.escape(value), value, CELL)
