"""Mending a copy of the data: which fixes, what they would change, and only then the copy."""

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
"""Rows that cannot be read are in no copy."""


def choose_fix(fixes: dict[str, bool], source: str, finding: Mapping[str, Any]) -> None:
    """Draw the fix of a finding, which begins chosen where it is safe; whether it is goes into ``fixes``."""
    fix = finding["fix"]
    words = FIXES.get(fix, fix)
    label = f"Mend: {words[0].lower()}{words[1:]}"
    if fix in fixes:
        st.caption(f"{label}, as above")
        return
    fixed = fix == _ALWAYS
    chosen = bool(finding["fix_is_chosen"])
    why = "They can stand in no copy." if fixed else None if chosen else "Look first at what it would change."
    fixes[fix] = st.checkbox(label, chosen, key=f"fix {fix} {source}", disabled=fixed, help=why)


def draw_mending(
    source: str,
    fixes: Mapping[str, bool],
    words: Sequence[str],
    version: str,
    take: Callable[[str], None],
) -> None:
    """What the chosen ``fixes`` would change, and the versioned copy of ``source`` that ``take`` then works with.

    ``words`` are those of the command that found what to mend, ``version`` the fingerprint of ``source``.
    """
    wanted = [fix for fix, chosen in fixes.items() if chosen]
    flags = [flag for fix in wanted for flag in ("--only", fix)]
    asked = (source, version, *flags)
    st.header("Mend a copy")
    st.caption("Your file stays as it is. Look at what the fixes chosen above change, then write the copy.")
    if st.button("Show what would change", icon=":material/difference:", disabled=not wanted):
        st.session_state["mending"] = asked
    if st.session_state.get("mending") != asked:
        return
    look = [*words, *flags, "--dry-run"]
    looked = ask("Working out what would change", look, version=version)
    if looked is None:
        return
    if not looked.ok:
        show_failure(looked, words=look, version=version)
        return
    if "fixed" not in looked.value:
        st.info("These change nothing.", icon=":material/info:")
        return
    out = mended_folder(studio().root, Path(source).absolute())
    _summarise(looked.value["fixed"])
    if st.button("Write the mended copy", type="primary", icon=":material/build:"):
        st.session_state["writing"] = asked
    if st.session_state.get("writing") == asked:
        _write([*words, *flags, "--fix", str(out)], version, take)
    draw_changes(looked.value["fixed"])


def _summarise(fixed: Mapping[str, Any]) -> None:
    """How many rows each fix changes and leaves out, and how many are left."""
    lines = []
    for name, (changed, left_out) in fixed["changes"].items():
        amounts = [(changed, "changed"), (left_out, "left out")]
        parts = [f"{counted(count, 'row')} {how}" for count, how in amounts if count]
        lines.append(f"- {FIXES.get(name, plain(name))}: {', '.join(parts)}")
    st.markdown("\n".join([*lines, f"- **{counted(fixed['rows'], 'row')}** in the copy"]))


def _write(words: Sequence[str], version: str, take: Callable[[str], None]) -> None:
    """The copy, written once however often it is asked for, and the button that takes it."""
    answer = ask("Writing the copy", words, version=version)
    if answer is None:
        return
    if not answer.ok:
        show_failure(answer, words=words, version=version)
        return
    fixed = answer.value["fixed"]
    left = "Something is still to be mended by hand." if fixed["blocks"] else "Nothing in it blocks a run."
    name = Path(fixed["copy"]).parent.name
    st.success(f"{name}: {counted(fixed['rows'], 'row')} in the mended copy. {left}", icon=":material/check:")
    if st.button("Work with the mended copy", icon=":material/arrow_forward:"):
        take(fixed["copy"])
