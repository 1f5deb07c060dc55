"""Draw the findings of the data doctor with their fixes, and the changes that fixes make."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from app.phrases import without_marks
from app.views.text import plain
from backend.utils.text_utils import counted

_FACES = {
    "block": ("Must be fixed", ":material/block:", "red"),
    "warn": ("Look at this", ":material/warning:", "orange"),
    "info": ("Note", ":material/info:", "blue"),
}
FIXES = {
    "drop-rejected": "Leave these rows out",
    "repair-text": "Repair the characters",
    "unescape-html": "Turn HTML marks back into characters",
    "redact-secrets": "Black out the secrets",
    "mend-turns": "Put the turns in order",
    "unify-labels": "Spell each answer one way",
    "drop-empty": "Leave empty answers out",
    "drop-equal-pairs": "Leave equal pairs out",
    "drop-conflicting-pairs": "Leave contradicting pairs out",
    "strip-prompts": "Take the prompt out of the answers",
    "drop-duplicates": "Keep one of each",
    "drop-near-duplicates": "Keep one of each",
    "drop-leaks": "Leave leaked rows out",
    "drop-near-leaks": "Leave leaked rows out",
}


def draw_findings(report: Mapping[str, Any], offer: Callable[[Mapping[str, Any]], object]) -> None:
    """Draw every finding of a report, most harmful first, or a success message if there is none.

    ``offer`` draws the fix of a finding that has one.
    """
    findings: Sequence[Mapping[str, Any]] = report["findings"]
    if not findings:
        st.success("No problems found.", icon=":material/check_circle:")
    for finding in findings:
        _draw_finding(finding, offer)
    if report["not_run"]:
        with st.expander(f"{counted(len(report['not_run']), 'check')} not run, and why"):
            for name, reason in report["not_run"]:
                st.markdown(f"- {plain(str(name).replace('-', ' '))}: {plain(str(reason))}")


def _draw_finding(finding: Mapping[str, Any], offer: Callable[[Mapping[str, Any]], object]) -> None:
    word, icon, colour = _FACES[finding["level"]]
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(word, icon=icon, color=colour)  # type: ignore[arg-type]
            share = "" if finding["share"] is None else f", {finding['share']:.0%}"
            st.markdown(f"**{plain(finding['title'])}** · {counted(finding['count'], 'row')}{share}")
        st.markdown(plain(without_marks(finding["harm"]), 400))
        for example in finding["examples"]:
            st.caption(f"**{plain(example['place'])}**  {plain(example['detail'], 300)}")
        if finding["fix"]:
            offer(finding)


def draw_changes(fixed: Mapping[str, Any]) -> None:
    """Draw the changes of a mended copy row by row: before on the left, after on the right."""
    shown = fixed["differences"]
    for change in shown:
        with st.container(border=True, gap="xsmall"):
            st.caption(f"**{plain(change['place'])}** · {FIXES.get(change['fix'], plain(change['fix']))}")
            before, after = st.columns(2)
            secret = change["before"] is None  # the command never shows a row before its secrets are redacted
            before.text(f"− {'(not shown)' if secret else record_text(change['before'])}")
            after.text("left out" if change["after"] is None else f"+ {record_text(change['after'])}")
    rejected = fixed["changes"].get("drop-rejected", (0, 0))[
        1
    ]  # unreadable rows are not among the differences
    hidden = sum(map(sum, fixed["changes"].values())) - rejected - len(shown)
    if hidden:
        st.caption(f"… and {hidden:,} more; all of them are kept in changes.jsonl beside the copy.")


def record_text(record: Mapping[str, Any]) -> str:
    """Return a row as readable text: its messages line by line, or its JSON."""
    messages = record.get("messages")
    if isinstance(messages, list):
        return "\n".join(f"{each.get('role')}: {each.get('content')}" for each in messages)
    return json.dumps(record, ensure_ascii=False)
