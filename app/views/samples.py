"""Draw the answers to the fixed panel of held-out rows over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import streamlit as st

from app.views.table import draw_table
from app.views.text import plain
from backend.run.reports import same_answer


def panels(records: Iterable[Mapping[str, object]]) -> dict[str, list[Mapping[str, object]]]:
    """Return the samples of each row, oldest first; other records are left out."""
    found: dict[str, list[Mapping[str, object]]] = {}
    for record in records:
        if isinstance(record.get("row"), str) and isinstance(record.get("step"), int):
            found.setdefault(str(record["row"]), []).append(record)
    return found


def draw_samples(panel: Mapping[str, Sequence[Mapping[str, object]]]) -> None:
    """Draw each row: prompt, expected answer, and the answers step by step, as plain text."""
    if not panel:
        st.caption("Samples are written at each evaluation; there has been none yet.")
    for row, samples in panel.items():
        with st.container(border=True):
            st.caption(plain(row))
            question, answer = st.columns(2)
            with question:
                st.caption("Asked")
                st.text(str(samples[-1].get("prompt", "")))
            with answer:
                st.caption("Expected")
                st.text(str(samples[-1].get("expected", "")))
            draw_table([_line(sample) for sample in samples], height="content")


def _line(sample: Mapping[str, object]) -> dict[str, object]:
    answer, expected = str(sample.get("generated", "")), str(sample.get("expected", ""))
    return {
        "step": sample["step"],
        "answer": answer,
        "as expected": "yes" if same_answer(answer, expected) else "no",
    }
