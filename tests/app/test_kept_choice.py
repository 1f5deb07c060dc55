"""Files given before, to be chosen again: app/kept_choice.py."""

from __future__ import annotations

import os
from pathlib import Path

from streamlit.testing.v1 import AppTest

from app.kept_choice import called, is_kept
from app.uploads import keep, mended_folder


def page(chosen: str) -> None:
    """The choice, and what is chosen."""
    import streamlit as st

    from app.kept_choice import choose_kept

    st.text(choose_kept(chosen))


def shown(chosen: str) -> AppTest:
    return AppTest.from_function(page, args=(chosen,), default_timeout=30).run()


def mended(root: Path, upload: Path) -> Path:
    """A mended copy of an upload."""
    copy = mended_folder(root, upload) / "v002" / "rows.jsonl"
    copy.parent.mkdir(parents=True)
    copy.write_text("{}")
    return copy


def test_uploads_and_mended_copies_in_words(root: Path) -> None:
    upload = keep(root, "foods.jsonl", b"{}")
    copy = mended(root, upload)
    os.utime(upload, (0, 1_789_992_000))
    assert called(str(upload)) == "foods.jsonl · 2 B · 21 Sep 2026"
    assert called(str(copy)).startswith("rows.jsonl · mended v002 · 2 B · ")
    assert shown(str(copy)).selectbox[0].options == [called(str(copy)), called(str(upload))]
    assert [is_kept(str(each)) for each in (upload, copy, root / "other.jsonl", "")] == [
        True,
        True,
        False,
        False,
    ]


def test_two_of_one_name_are_told_apart_by_their_content(root: Path) -> None:
    first, second = (keep(root, "foods.jsonl", content) for content in (b"{}", b"[]"))
    assert called(str(first)).endswith(f" · {first.parent.name[:6]}")
    assert called(str(second)).endswith(f" · {second.parent.name[:6]}")
    second.unlink()
    assert called(str(second)) == "foods.jsonl"
    assert first.parent.name[:6] not in called(str(first))


def test_what_is_chosen_is_shown_and_nothing_else_is(root: Path) -> None:
    upload = str(keep(root, "foods.jsonl", b"{}"))
    assert shown(upload).text[0].value == upload
    app = shown("elsewhere.jsonl")
    assert app.text[0].value == ""
    app.selectbox[0].set_value(upload).run()
    assert app.text[0].value == upload


def test_before_the_first_upload(root: Path) -> None:
    assert shown("").selectbox[0].placeholder == "None yet"
