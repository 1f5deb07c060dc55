"""The evidence in a run folder: backend/run_state.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backend.reports import Outcome, RunStatus
from backend.run_dir import RunDir
from backend.run_state import read_evidence, read_records


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "tiny", "seed: 1")


def test_a_new_run_has_little_to_say(run: RunDir) -> None:
    evidence = read_evidence(run)
    assert (evidence.held, evidence.attempt, evidence.outcome, evidence.ticket) == (False, None, None, None)
    assert evidence.same_boot
    assert evidence.damage == ""


def test_a_live_run_shows_its_stop_and_its_report(run: RunDir) -> None:
    with run.lock():
        run.begin_attempt(("a",), pid=os.getpid())
        assert not read_evidence(run).reported
        run.write_environment({})
        run.request_stop("paused")
        evidence = read_evidence(run)
    assert evidence.held
    assert evidence.reported
    assert evidence.stop == "paused"
    assert read_evidence(run).stop is None


def test_the_environment_of_an_older_attempt_is_no_report(run: RunDir) -> None:
    with run.lock():
        run.begin_attempt(("a",))
        run.write_environment({})
        run.begin_attempt(("b",))
        assert not read_evidence(run).reported


def test_a_live_run_with_a_damaged_environment_is_still_starting(run: RunDir) -> None:
    with run.lock():
        run.begin_attempt(("a",))
        run.environment.write_text("{")
        assert run.status() is RunStatus.STARTING


def test_each_damaged_record_is_named(run: RunDir) -> None:
    run.begin_attempt(("a",))
    run.write_outcome(Outcome(RunStatus.FAILED, "x", "X."))
    for path in (run.attempts / "1.json", run.outcome_file, run.ticket_file, run.environment, run.config):
        path.write_text("{")
    problems = read_records(run).problems
    assert list(problems) == [
        run.config, run.attempts / "1.json", run.outcome_file, run.ticket_file, run.environment,
    ]  # fmt: skip
    assert all(path.name in problem for path, problem in problems.items())
