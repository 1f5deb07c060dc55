"""What changes when a source changes: app/fingerprints.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import fingerprints
from app.fingerprints import fingerprint


@pytest.mark.parametrize(
    "ending", ["/rows.jsonl", "", "/*.jsonl", "/rows.jsonl[:80%]", "/rows.jsonl:test[2:9]"]
)
def test_it_moves_with_what_lies_behind_a_source(tmp_path: Path, ending: str) -> None:
    source = f"{tmp_path}{ending}"
    path = tmp_path / "rows.jsonl"
    path.write_text("one")
    before = fingerprint(source)
    assert fingerprint(source) == before
    path.write_text("one more")
    assert fingerprint(source) != before


@pytest.mark.parametrize("source", ["{}", "{}/*.jsonl", "{}/**/*.jsonl"])
def test_it_moves_with_a_file_that_comes(tmp_path: Path, source: str) -> None:
    (tmp_path / "a.jsonl").write_text("one")
    before = fingerprint(source.format(tmp_path))
    (tmp_path / "b.jsonl").write_text("two")
    assert fingerprint(source.format(tmp_path)) != before


def test_it_moves_with_any_of_several_sources(tmp_path: Path) -> None:
    train, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    train.write_text("one")
    held.write_text("two")
    before = fingerprint(str(train), str(held))
    held.write_text("three")
    assert fingerprint(str(train), str(held)) != before


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = fingerprint("~/rows.jsonl")
    (tmp_path / "rows.jsonl").write_text("one")
    assert fingerprint("~/rows.jsonl") != before


@pytest.mark.parametrize("source", ["", "\0", "nowhere.jsonl", "owner/name", "~nobody-here/x", "x" * 300])
def test_what_is_not_there_is_no_error(source: str) -> None:
    assert fingerprint(source) == fingerprint(source)


@pytest.mark.parametrize("ending", ["", "/*.jsonl"])
def test_of_very_many_files_only_the_first_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(fingerprints, "MAX_FILES", 2)
    seen: list[str] = []
    monkeypatch.setattr(fingerprints, "_mark", lambda path: seen.append(path) or b"")
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_text("one")
    fingerprint(f"{tmp_path}{ending}")
    assert len(seen) == 2
