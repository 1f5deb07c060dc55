"""Files a person gave: app/uploads.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.uploads import harmless, keep, kept_files, mended_folder
from backend.utils import file_utils
from tests.fakes import FailingFileSystem


def test_content_that_is_uploaded_again_under_its_right_name_has_that_name(tmp_path: Path) -> None:
    wrong = keep(tmp_path, "rows.txt", b"content")
    right = keep(tmp_path, "rows.jsonl", b"content")
    assert (wrong.name, right.name) == ("rows.txt", "rows.jsonl")
    assert wrong.read_bytes() == right.read_bytes() == b"content"
    assert set(kept_files(tmp_path)) == {wrong, right}
    assert mended_folder(tmp_path, wrong) == mended_folder(tmp_path, right)


def test_the_same_content_is_kept_once(tmp_path: Path) -> None:
    first = keep(tmp_path, "rows.jsonl", b"content")
    assert keep(tmp_path, "rows.jsonl", b"content") == first
    assert first.read_bytes() == b"content"
    assert keep(tmp_path, "rows.jsonl", b"other") != first
    assert len(kept_files(tmp_path)) == 2
    assert [path for path in (tmp_path / "data").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("known", [[], ["rows.txt"]])
def test_what_the_disk_refuses_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: list[str]
) -> None:
    before = [keep(tmp_path, name, b"content") for name in known]
    (tmp_path / "data").mkdir(exist_ok=True)
    monkeypatch.setattr(file_utils, "file_system", lambda _: FailingFileSystem(2))
    with pytest.raises(OSError, match="No space"):
        keep(tmp_path, "rows.jsonl", b"content")
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == before
    assert list((tmp_path / "data").rglob(".*")) == []


def test_the_newest_comes_first_and_mended_copies_count(tmp_path: Path) -> None:
    first = keep(tmp_path, "rows.jsonl", b"content")
    copy = mended_folder(tmp_path, first) / "v001" / "rows.jsonl"
    copy.parent.mkdir(parents=True)
    copy.write_text("{}")
    assert kept_files(tmp_path) == [copy, first]
    assert kept_files(tmp_path / "nowhere") == []


def test_mended_copies_of_a_copy_stand_beside_it(tmp_path: Path) -> None:
    first = keep(tmp_path, "rows.jsonl", b"content")
    folder = mended_folder(tmp_path, first)
    assert folder == first.parent / "mended"
    assert mended_folder(tmp_path, folder / "v001" / "rows.jsonl") == folder
    elsewhere = mended_folder(tmp_path, Path("/somewhere/rows.jsonl"))
    assert elsewhere.is_relative_to(tmp_path / "data")
    assert elsewhere != mended_folder(tmp_path, Path("/somewhere/else.jsonl"))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("rows.jsonl", "rows.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\rows.csv", "rows.csv"),
        ("<b>x</b>.csv", "b_.csv"),
        ("", "rows.jsonl"),
        ("..", "rows.jsonl"),
        (".hidden", "hidden"),
        ("a" * 300 + ".jsonl", "a" * 80 + ".jsonl"),
    ],
)
def test_names_are_made_harmless(name: str, kept: str) -> None:
    assert harmless(name) == kept


@given(st.text())
def test_no_name_leads_elsewhere(name: str) -> None:
    kept = harmless(name)
    assert kept
    assert not set(kept) & set('/\\\0<>"')
    assert not kept.startswith(".")
    assert len(kept) <= 93
