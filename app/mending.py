"""Mend a copy of the data: choose fixes, see what they would change, then write the copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from app.commands import ask, show_failure
from app.studio import studio
from app.uploads import mended_folder
from app.views.problem_list import FIXES, draw_changes
from app.views.text import plain
from backend.utils.text_utils import counted

_ALWAYS = "drop-rejected"
"""Always on: rows that cannot be read cannot be part of a copy."""


def choose_fix(fixes: dict[str, bool], source: str, finding: Mapping[str, Any]) -> None:
    """Draw a checkbox for the fix of a finding, on if it is safe, and put its value into ``fixes``."""
    fix = finding["fix"]
    words = FIXES.get(fix, fix)
    label = f"Mend: {words[0].lower()}{words[1:]}"
    if fix in fixes:
        st.caption(f"{label}, as above")
        return
    fixed = fix == _ALWAYS
    chosen = bool(finding["fix_is_chosen"])
    why = "Such rows cannot be part of a copy." if fixed else "Look first at what it would change."
    hint = why if fixed or not chosen else None
    fixes[fix] = st.checkbox(label, chosen, key=f"fix {fix} {source}", disabled=fixed, help=hint)


def draw_mending(
    source: str,
    fixes: Mapping[str, bool],
    words: Sequence[str],
    version: str,
    take: Callable[[str], None],
) -> None:
    """Draw what the chosen ``fixes`` would change, and the button that writes a mended copy of ``source``.

    ``words`` are the command that found the problems, ``version`` is the fingerprint of ``source``; ``take`` is
    called with the path of the copy once the person chooses to work with it.
    """
    wanted = [fix for fix, chosen in fixes.items() if chosen]
    flags = [flag for fix in wanted for flag in ("--only", fix)]
    request = (source, version, *flags)
    st.header("Mend a copy")
    st.caption("Your file stays as it is. See what the chosen fixes change, then write the copy.")
    if st.button("Show what would change", icon=":material/difference:", disabled=not wanted):
        st.session_state["mending"] = request
    if st.session_state.get("mending") != request:
        return
    dry_run = [*words, *flags, "--dry-run"]
    answer = ask("Finding out what would change", dry_run, version=version)
    if answer is None:
        return
    if not answer.ok:
        show_failure(answer, words=dry_run, version=version)
        return
    if "fixed" not in answer.value:
        st.info("These change nothing.", icon=":material/info:")
        return
    out = mended_folder(studio().root, Path(source).absolute())
    _summarise(answer.value["fixed"])
    if st.button("Write the mended copy", type="primary", icon=":material/build:"):
        st.session_state["writing"] = request
    if st.session_state.get("writing") == request:
        _write([*words, *flags, "--fix", str(out)], version, take)
    draw_changes(answer.value["fixed"])


def _summarise(fixed: Mapping[str, Any]) -> None:
    """Draw how many rows each fix changes and leaves out, and how many are left."""
    lines = []
    for name, (changed, left_out) in fixed["changes"].items():
        amounts = [(changed, "changed"), (left_out, "left out")]
        parts = [f"{counted(count, 'row')} {how}" for count, how in amounts if count]
        lines.append(f"- {FIXES.get(name, plain(name))}: {', '.join(parts)}")
    st.markdown("\n".join([*lines, f"- **{counted(fixed['rows'], 'row')}** in the copy"]))


def _write(words: Sequence[str], version: str, take: Callable[[str], None]) -> None:
    """Write the copy, once even if the page is drawn again, and draw the button to work with it."""
    answer = ask("Writing the copy", words, version=version)
    if answer is None:
        return
    if not answer.ok:
        show_failure(answer, words=words, version=version)
        return
    fixed = answer.value["fixed"]
    left = "Some problems must be fixed by hand." if fixed["blocks"] else "No problem in it stops a run."
    name = Path(fixed["copy"]).parent.name
    st.success(f"{name}: {counted(fixed['rows'], 'row')} in the mended copy. {left}", icon=":material/check:")
    if st.button("Work with the mended copy", icon=":material/arrow_forward:"):
        take(fixed["copy"])
