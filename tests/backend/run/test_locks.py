"""Who works on a run, who reads it, who deletes it: backend/run/locks.py, through the run folder."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from backend.errors import NextStep, RunError
from backend.run.folder import RunDir
from backend.run.handover import Handover
from backend.run.locks import RunLocks
from backend.utils.lock_utils import hold_lock, is_folder_held, share_folder


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "runs", "tiny", "seed: 1\n")


@pytest.fixture
def locks(tmp_path: Path) -> RunLocks:
    return RunLocks(tmp_path / "a run", tmp_path / "work")


def told(error: RunError) -> tuple[str, str, str, NextStep | None, str]:
    """All that a refusal says."""
    return error.message, error.remedy, error.code, error.next_step, error.about


class TestWorking:
    def test_a_lock_of_ones_own_is_not_inherited(self, locks: RunLocks) -> None:
        with locks.work() as (descriptor, adopted):
            assert descriptor > 2
            assert not adopted

    def test_a_supervisors_lock_is_adopted(self, locks: RunLocks, monkeypatch: pytest.MonkeyPatch) -> None:
        with hold_lock(locks.work_file) as given:
            heir = os.dup(given)
            for name, value in Handover(lock=heir).environ().items():
                monkeypatch.setenv(name, value)
            with locks.work() as held:
                assert held == (heir, True)

    def test_the_second_worker_is_told_how_to_watch(self, locks: RunLocks) -> None:
        with locks.work(), pytest.raises(RunError) as caught, locks.work():
            pytest.fail("two workers")
        assert told(caught.value) == (
            "The run a run is being worked on already.",
            "Wait until it is over, or stop it.",
            "already-running",
            NextStep.WATCH,
            "a run",
        )

    def test_f39_a_run_that_is_gone_has_no_worker(self, run: RunDir) -> None:
        shutil.rmtree(run.path)
        with pytest.raises(RunError, match="gone") as caught, run.lock():
            pytest.fail("held nothing")
        assert caught.value.code == "no-such-run"


class TestReading:
    def test_readers_share_a_run_with_its_trainer(self, run: RunDir) -> None:
        assert not is_folder_held(run.path)
        with run.hold_for_reading(), run.hold_for_reading(), run.lock():
            assert is_folder_held(run.path)
        assert not is_folder_held(run.path)

    def test_f39_nothing_deletes_under_a_reader(self, run: RunDir) -> None:
        with (
            run.hold_for_reading(),
            pytest.raises(RunError) as caught,
            run.hold_for_deleting(),
        ):
            pytest.fail("held for deleting")
        assert told(caught.value) == (
            f"The run {run.id} is in use: it is being served, exported or sent.",
            "Stop the server, or let the export end; then delete the run.",
            "in-use",
            NextStep.STOP_SERVER,
            "",
        )
        assert not run.is_held()

    def test_f39_nothing_deletes_under_a_trainer(self, run: RunDir) -> None:
        with run.lock(), pytest.raises(RunError, match="worked on") as caught, run.hold_for_deleting():
            pytest.fail("held for deleting")
        assert caught.value.code == "already-running"

    def test_f39_nobody_begins_to_read_what_is_being_deleted(self, run: RunDir) -> None:
        with (
            run.hold_for_deleting(),
            pytest.raises(RunError, match="gone or being deleted") as caught,
            run.hold_for_reading(),
        ):
            pytest.fail("held for reading")
        assert caught.value.code == "no-such-run"

    def test_a_run_that_is_gone(self, run: RunDir) -> None:
        shutil.rmtree(run.path)
        with pytest.raises(RunError) as caught, run.hold_for_reading():
            pytest.fail("held for reading")
        assert told(caught.value) == (
            f"The run {run.id} is gone or being deleted.",
            "Choose another.",
            "no-such-run",
            NextStep.LIST_RUNS,
            "",
        )

    def test_reading_writes_nothing(self, run: RunDir) -> None:
        before = sorted(path.name for path in run.path.iterdir())
        with run.hold_for_reading():
            assert sorted(path.name for path in run.path.iterdir()) == before

    def test_a_disk_that_cannot_lock_says_so(self, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
        refusing = create_autospec(share_folder, side_effect=OSError(errno.ENOLCK, "no locks here"))
        monkeypatch.setattr("backend.run.locks.share_folder", refusing)
        with pytest.raises(OSError, match="no locks here"), run.hold_for_reading():
            pytest.fail("held nothing")
