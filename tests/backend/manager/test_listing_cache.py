"""Summaries kept beside the runs: backend/manager/listing_cache.py."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from backend.manager import listing_cache, run_manager
from backend.manager.listing_cache import FILE, load_listing, save_listing
from backend.manager.run_manager import RunManager
from backend.manager.run_summary import summarise
from backend.reports import RunStatus
from backend.run_dir import RunDir


def test_there_and_back(root: Path, run: RunDir) -> None:
    entries = {run.id: ((1, 2, 3), summarise(run))}
    save_listing(root, entries)
    assert load_listing(root) == entries


def test_an_entry_without_a_stamp_is_not_kept(root: Path, run: RunDir) -> None:
    save_listing(root, {run.id: ((), summarise(run))})
    assert load_listing(root) == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 2}', '{"format": 1}', '{"format": 1, "runs": []}',
             '{"format": 1, "runs": {"a": 1}}', '{"format": 1, "runs": {"a": [["x"], {}]}}',
             '{"format": 1, "runs": {"a": [[1], {}]}}']
)  # fmt: skip
def test_anything_else_is_no_cache(root: Path, text: str) -> None:
    (root / FILE).write_text(text)
    assert load_listing(root) == {}


def test_a_missing_file_is_no_cache(root: Path) -> None:
    assert load_listing(root) == {}


def test_a_disk_that_refuses_is_no_matter(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(listing_cache, "write_text_durably", refuse)
    save_listing(root, {})
    assert list(root.iterdir()) == []


def test_a_new_process_reads_only_what_moved(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_manager, "_WORTH_SAVING", 3)
    runs = [RunDir.create(root, f"run{number}", "seed: 1") for number in range(3)]
    for run in runs:
        os.utime(run.path, (1e9, 1e9))
    first = RunManager(root).list()
    assert (root / FILE).exists()
    runs[1].begin_attempt(("a",))
    read: list[str] = []
    honest = run_manager.summarise
    monkeypatch.setattr(run_manager, "summarise", lambda run: read.append(run.id) or honest(run))
    second = RunManager(root).list()
    assert read == [runs[1].id]
    assert [item.status for item in first if item.id == runs[1].id] == [RunStatus.CREATED]
    assert [item.status for item in second if item.id == runs[1].id] == [RunStatus.INTERRUPTED]


def test_few_changes_are_not_worth_a_write(root: Path, run: RunDir) -> None:
    RunManager(root).list()
    assert not (root / FILE).exists()
