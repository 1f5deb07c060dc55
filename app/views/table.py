"""Draw tables. They are built as Arrow tables without pandas, which takes most of a second to import."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import streamlit as st

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]


def draw_table(
    rows: Sequence[Mapping[str, object]],
    *,
    height: Literal["auto", "content"] = "auto",
    column_config: Mapping[str, Any] | None = None,
) -> None:
    """Draw one line per row; with height ``content`` all rows are visible, else it scrolls after ten."""
    names = dict.fromkeys(name for row in rows for name in row)
    table = arrow_table({name: [row.get(name) for row in rows] for name in names})
    st.dataframe(table, hide_index=True, height=height, column_config=column_config, lazy=False)


def arrow_table(columns: Mapping[str, Sequence[object]]) -> pa.Table:
    """Return the columns as an Arrow table of whole numbers, numbers, or text in which None is empty."""
    import pyarrow as pa  # noqa: PLC0415 - loads once something is drawn

    return pa.table({name: _column(values) for name, values in columns.items()})


def _column(values: Sequence[Any]) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415

    kinds = {*map(type, values)}
    if kinds == {int} and max(map(abs, values)) < 2**63:
        return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(array("q", values))])
    if float in kinds and kinds <= {int, float}:
        return pa.Array.from_buffers(pa.float64(), len(values), [None, pa.py_buffer(array("d", values))])
    texts = [b"" if value is None else str(value).encode() for value in values]
    ends = array("i", accumulate(map(len, texts), initial=0))
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(texts)))
