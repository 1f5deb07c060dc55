"""The evidence in a run folder: backend/run/evidence.py."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from backend.run.environment import Environment
from backend.run.evidence import look, read_records, read_stop
from backend.run.folder import RunDir
from backend.run.lifecycle import Evidence
from backend.run.reports import Outcome, RunStatus


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "tiny", "seed: 1")


def read_evidence(run: RunDir) -> Evidence:
    return look(run)[0]


def test_a_new_run_has_little_to_say(run: RunDir) -> None:
    evidence = read_evidence(run)
    assert (evidence.held, evidence.attempt, evidence.outcome, evidence.ticket) == (False, 0, None, None)
    assert evidence.same_boot
    assert evidence.damage == ""


def test_a_live_run_shows_its_stop_and_its_report(run: RunDir) -> None:
    with run.lock():
        run.begin_attempt(("a",), pid=os.getpid())
        assert not read_evidence(run).reported
        run.write_environment(Environment())
        run.request_stop("paused")
        evidence = read_evidence(run)
    assert evidence.held
    assert evidence.reported
    assert evidence.stop == "paused"
    assert read_evidence(run).stop is None


def test_the_environment_of_an_older_attempt_is_no_report(run: RunDir) -> None:
    with run.lock():
        run.begin_attempt(("a",))
        run.write_environment(Environment())
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
    assert list(problems) == ["config.yaml", "outcome.json", "attempts/1.json", "queued", "environment.json"]
    assert all(Path(name).name in problem for name, problem in problems.items())
    assert read_evidence(run).damage == "; ".join(problems.values())


def test_a_run_that_is_gone_says_so_instead(run: RunDir) -> None:
    shutil.rmtree(run.path)
    assert read_evidence(run).damage == "the folder is gone"


def test_records_are_read_once_and_whole(run: RunDir) -> None:
    run.begin_attempt(("a",))
    run.write_environment(Environment())
    records = read_records(run)
    assert records.config == run.read_config_text()
    assert records.attempt == run.latest_attempt()
    assert records.environment == Environment(attempt=1)


def test_a_run_that_begins_while_it_is_read_is_live(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its attempt has no end yet, which would read as an interruption."""
    run.begin_attempt(("a",))
    looks = iter([False, True])
    monkeypatch.setattr("backend.run.evidence.is_held", lambda _: next(looks))
    assert read_evidence(run).held


def test_a_stop_counts_still_where_it_ended_the_attempt(run: RunDir) -> None:
    attempt = run.begin_attempt(("a",))
    run.request_stop("paused")
    assert read_evidence(run).stop is None
    run.end_attempt(attempt, "stopped", signal_number=15)
    assert read_evidence(run).stop == "paused"


class TestStop:
    def test_a_request_says_why(self, run: RunDir) -> None:
        assert read_stop(run) is None
        run.request_stop("disk-low")
        assert read_stop(run) == "disk-low"

    @pytest.mark.parametrize("content", ["", "{", "[]", "\0", "{}"])
    def test_anything_by_that_name_counts(self, run: RunDir, content: str) -> None:
        run.stop_file.write_text(content)
        assert read_stop(run) == "stop-requested"

    def test_so_does_a_folder(self, run: RunDir) -> None:
        run.stop_file.mkdir()
        assert read_stop(run) == "stop-requested"


class TestARunAtRest:
    """What nobody needs of it is only seen to be whole, since environments are long and listings are."""

    @pytest.fixture
    def ended(self, run: RunDir) -> RunDir:
        run.begin_attempt(("a",))
        run.write_environment(Environment())
        run.write_outcome(Outcome(RunStatus.FINISHED, "completed", "Done."))
        return run

    def test_it_reads_as_it_does_thoroughly(self, ended: RunDir) -> None:
        quick, thorough = read_records(ended, thorough=False), read_records(ended)
        assert (quick.attempt, quick.environment) == (None, Environment())
        assert thorough.attempt == ended.latest_attempt()
        assert (quick.number, quick.outcome, quick.problems) == (1, thorough.outcome, {})
        assert ended.state().attempt == 1

    @pytest.mark.parametrize("name", ["environment.json", "attempts/1.json"])
    def test_f21_what_is_not_whole_is_damage(self, ended: RunDir, name: str) -> None:
        path = ended.path / name
        path.write_bytes(path.read_bytes()[:-1])
        assert list(read_records(ended, thorough=False).problems) == []
        path.write_bytes(path.read_bytes()[:-1])
        assert list(read_records(ended, thorough=False).problems) == [name]
        path.unlink()
        path.mkdir()
        assert list(read_records(ended, thorough=False).problems) == [name]

    def test_an_attempt_that_the_trainer_did_not_end_is_read(self, ended: RunDir) -> None:
        attempt = ended.begin_attempt(("b",))
        assert read_records(ended, thorough=False).attempt == attempt
        assert read_records(ended).outcome is None
