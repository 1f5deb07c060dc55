"""F41: two tabs, a reload in the middle of a click, a storm of reruns: a command given twice does its work once.

A door remembers nothing, so a second session is a second set of managers over the same folder. What a browser adds
to this is tested with the studio.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from backend.errors import RunError
from backend.manager import process_manager
from backend.manager.attempts import Policy
from backend.manager.queue_manager import QueueManager
from backend.manager.run_manager import RunManager
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from tests.backend.manager.conftest import stand_in
from tests.eventually import eventually

CLICKS = 6
QUICK = Policy(term_seconds=0.2, grace_seconds=2.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def run(root: Path) -> RunDir:
    return RunDir.create(root, "tiny", "model:\n  model_name_or_path: tiny\n")


def clicked(work: Callable[[], object]) -> list[str]:
    """``work`` from several tabs at once; the code of each refusal, "" for what went through."""
    together = Barrier(CLICKS)

    def click(_: int) -> str:
        together.wait()
        try:
            work()
        except RunError as error:
            return error.code
        return ""

    with ThreadPoolExecutor(CLICKS) as pool:
        return sorted(pool.map(click, range(CLICKS)))


def test_f41_start_stop_resume_and_delete_from_every_tab(root: Path, run: RunDir) -> None:
    command = stand_in(run, "steps=100000", "pause=0.01")
    started = clicked(lambda: process_manager.start(RunDir(run.path), command=command))
    assert started.count("") == 1
    assert set(started) <= {"", "already-running"}
    eventually(lambda: run.status() is RunStatus.RUNNING)
    assert run.latest_attempt_number() == 1

    stopped = clicked(lambda: process_manager.stop(RunDir(run.path), policy=QUICK))
    assert set(stopped) <= {"", "not-running"}
    assert run.status() is RunStatus.STOPPED

    resumed = clicked(lambda: process_manager.start(RunDir(run.path), command=stand_in(run, "steps=3")))
    assert resumed.count("") == 1
    assert process_manager.wait(run, timeout_seconds=30).status is RunStatus.FINISHED
    assert run.latest_attempt_number() == 2

    deleted = clicked(lambda: RunManager(root).delete(run.id))
    assert deleted.count("") == 1
    assert set(deleted) <= {"", "no-such-run", "already-running", "illegal-transition"}
    assert RunDir.all_under(root) == []


def test_f41_one_place_in_the_queue(root: Path, run: RunDir) -> None:
    started: list[RunDir] = []
    queued = clicked(lambda: QueueManager(root, started.append).enqueue(RunDir(run.path)))
    assert "" in queued
    assert set(queued) <= {"", "illegal-transition"}
    assert [waiting.id for waiting, _ in QueueManager(root).waiting()] == [run.id]
    assert started == []  # to queue starts nothing; whoever looks next does


def test_f41_labels_given_twice_stay_the_same(root: Path, run: RunDir) -> None:
    refusals = clicked(lambda: RunManager(root).tag(run.id, add=["good"]))
    refusals += clicked(lambda: RunManager(root).rename(run.id, "first"))
    assert set(refusals) == {""}
    shown = RunManager(root).show(run.id)
    assert (shown.labels.tags, shown.title) == (("good",), "first")
