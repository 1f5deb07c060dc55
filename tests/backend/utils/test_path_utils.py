"""Paths as people write them: backend/utils/path_utils.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.utils.path_utils import absolute_source, user_path


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~", "{home}"),
        ("~/rows.jsonl", "{home}/rows.jsonl"),
        ("~no-such-person/rows.jsonl", "~no-such-person/rows.jsonl"),
        ("~\0", "~\0"),
        ("a/~/b", "a/~/b"),
        ("/a/b", "/a/b"),
        ("", "."),
    ],
)
def test_a_home_is_put_in_where_there_is_one(text: str, path: str, tmp_path: Path) -> None:
    assert user_path(text) == Path(path.format(home=tmp_path))
    assert user_path(Path(text)) == user_path(text)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("rows.jsonl", "{home}/rows.jsonl"),
        ("~/rows.jsonl", "{home}/rows.jsonl"),
        ("/data/rows.jsonl", "/data/rows.jsonl"),
        ("hf://owner/name", "hf://owner/name"),
        ("owner/name", "owner/name"),
        ("owner/name@v1:train[:80%]", "owner/name@v1:train[:80%]"),
        ("here/name", "{home}/here/name"),
        ("missing/*.csv", "{home}/missing/*.csv"),
    ],
)
def test_a_source_is_absolute_or_an_address(source: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert absolute_source(source) == expected.format(home=tmp_path)


@given(st.text(max_size=40))
def test_any_text_is_a_source_and_twice_is_once(text: str) -> None:
    once = absolute_source(text)
    assert absolute_source(once) == once
    assert once == text or Path(once).is_absolute()
