"""Summaries kept beside the runs: backend/manager/listing_cache.py."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from backend.manager import listing_cache, run_manager
from backend.manager.listing_cache import FILE, load_listing, save_listing
from backend.manager.run_manager import RunManager
from backend.manager.run_summary import Labels, summarise
from backend.run.folder import RunDir
from backend.run.reports import RunStatus


def test_there_and_back(root: Path, run: RunDir) -> None:
    labelled = replace(summarise(run), labels=Labels("food", ("a", "b"), "good", archived=True), loss=0.5)
    entries = {run.id: ((1, 2, 3), labelled), "other": ((4,), replace(labelled, id="other", labels=Labels()))}
    entries["other"] = ((4,), replace(entries["other"][1], path=root / "other"))
    save_listing(root, entries)
    assert load_listing(root) == entries


def test_an_entry_without_a_stamp_is_not_kept(root: Path, run: RunDir) -> None:
    save_listing(root, {run.id: ((), summarise(run))})
    assert load_listing(root) == {}


def test_a_folder_whose_name_is_no_text_is_left_out(root: Path, run: RunDir) -> None:
    summary = summarise(run)
    odd = os.fsdecode(b"caf\xe9")
    save_listing(root, {run.id: ((1, 2, 3), summary), odd: ((4,), replace(summary, id=odd))})
    assert list(load_listing(root)) == [run.id]


def test_one_changed_byte_anywhere_makes_it_no_cache(root: Path, run: RunDir) -> None:
    save_listing(root, {run.id: ((1, 2, 3), summarise(run))})
    whole = (root / FILE).read_bytes()
    for place in range(len(whole)):
        (root / FILE).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert load_listing(root) == {}
    (root / FILE).write_bytes(whole)
    assert len(load_listing(root)) == 1


@pytest.mark.parametrize("change", [("_FIELDS", ["id"]), ("RunStatus", lambda _: int("x"))])
def test_another_versions_rows_are_no_cache(
    root: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch, change: tuple[str, object]
) -> None:
    save_listing(root, {run.id: ((1, 2, 3), summarise(run))})
    monkeypatch.setattr(listing_cache, *change)
    assert load_listing(root) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "\n[]", '{"format": 1, "runs": {}}', "\xff"])
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
