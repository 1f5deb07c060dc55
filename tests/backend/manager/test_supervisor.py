"""How attempts end and whether another follows: backend/manager/supervisor.py, with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backend.errors import NextStep, RunError
from backend.manager import supervisor
from backend.manager.attempts import Policy
from backend.manager.process_manager import start, stop, wait
from backend.manager.supervisor import Breaker, Ready, own
from backend.run.folder import RunDir
from backend.run.handover import Handover
from backend.run.reports import AttemptEnd, RunStatus
from backend.utils.process_utils import identify, send_signal
from tests.backend.manager.conftest import stand_in
from tests.eventually import eventually

HASTY = Policy(restarts=3, backoff_seconds=0.01)


def end_of(run: RunDir) -> AttemptEnd:
    attempt = run.latest_attempt()
    assert attempt is not None
    assert attempt.end is not None
    return attempt.end


class TestEnds:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("behaviour", "status", "reason", "named"),
        [
            ("crash", "failed", "crashed", "SIGSEGV"),
            ("abort", "failed", "crashed", "SIGABRT"),
            ("exit-0", "failed", "no-outcome", "exit code 0"),
            ("exit-7", "failed", "error", "exit code 7"),
            ("kill-self", "interrupted", "killed", "SIGKILL"),
            ("fail", "failed", "non-finite-loss", "nan"),
        ],
    )
    def test_f25_each_end_has_its_reason(
        self, run: RunDir, behaviour: str, status: str, reason: str, named: str
    ) -> None:
        start(run, command=stand_in(run, behaviour))
        state = wait(run, timeout_seconds=20)
        assert (state.status, state.reason) == (status, reason)
        assert named in state.message

    @pytest.mark.slow
    def test_f25_a_crash_leaves_its_stack_in_the_log(self, run: RunDir) -> None:
        start(run, command=stand_in(run, "crash"))
        wait(run, timeout_seconds=20)
        assert "Segmentation fault" in run.train_log.read_text()

    @pytest.mark.slow
    def test_f27_ten_megabytes_of_output_block_nothing(self, run: RunDir) -> None:
        start(run, command=stand_in(run, "noise", "steps=2"))
        assert wait(run, timeout_seconds=30).status is RunStatus.FINISHED
        log = run.train_log.read_text().splitlines()
        assert len(log) == 100_002
        assert log[-1] == "step 2"

    @pytest.mark.slow
    def test_w08_helpers_of_a_dead_trainer_are_swept_up(self, run: RunDir) -> None:
        start(run, command=stand_in(run, "child", "kill-self"))
        assert wait(run, timeout_seconds=20).reason == "killed"


class TestTryingAgain:
    @pytest.mark.slow
    def test_by_default_a_killed_trainer_stays_down(self, run: RunDir) -> None:
        start(run, command=stand_in(run, "kill-self"))
        wait(run, timeout_seconds=20)
        assert run.latest_attempt_number() == 1

    @pytest.mark.slow
    def test_f26_a_crash_loop_is_broken(self, run: RunDir) -> None:
        start(run, policy=HASTY, command=stand_in(run, "kill-self"))
        state = wait(run, timeout_seconds=30)
        assert (state.status, state.reason) == (RunStatus.INTERRUPTED, "crash-loop")
        assert run.latest_attempt_number() == 4

    @pytest.mark.slow
    def test_f26_progress_earns_new_tries(self, run: RunDir) -> None:
        policy = Policy(restarts=1, backoff_seconds=0.01)
        start(run, policy=policy, command=stand_in(run, "die-each-5", "checkpoint", "steps=18"))
        assert wait(run, timeout_seconds=60).status is RunStatus.FINISHED
        assert run.latest_attempt_number() == 4
        assert [record["step"] for record in run.metrics().records] == list(range(1, 19))

    @pytest.mark.slow
    @pytest.mark.parametrize("behaviour", ["exit-0", "exit-7", "fail"])
    def test_an_end_of_its_own_is_final(self, run: RunDir, behaviour: str) -> None:
        start(run, policy=HASTY, command=stand_in(run, behaviour))
        wait(run, timeout_seconds=20)
        assert run.latest_attempt_number() == 1

    @pytest.mark.slow
    def test_a_stop_during_the_pause_is_heeded(self, run: RunDir) -> None:
        start(run, policy=Policy(restarts=3, backoff_seconds=60), command=stand_in(run, "kill-self"))
        eventually(lambda: run.latest_attempt_number() == 1 and run.read_attempt(1).end is not None)
        assert run.state().is_live
        assert stop(run).status is RunStatus.INTERRUPTED
        assert run.latest_attempt_number() == 1

    def test_f26_the_breaker_counts_deaths_without_progress(self) -> None:
        breaker = Breaker(restarts=2, step=10)
        assert [breaker.allows(10), breaker.allows(10)] == [True, True]
        assert breaker.allows(20)
        assert [breaker.allows(20), breaker.allows(20)] == [True, False]
        assert not Breaker(restarts=0, step=0).allows(5)


class TestSignals:
    @pytest.mark.slow
    def test_f04_a_supervisor_told_to_end_stops_the_run_first(self, run: RunDir) -> None:
        start(run, command=stand_in(run, "steps=100000"))
        eventually(lambda: run.status() is RunStatus.RUNNING)
        attempt = run.latest_attempt()
        assert attempt is not None
        assert attempt.supervisor is not None
        send_signal(attempt.supervisor, signal.SIGTERM)
        state = wait(run, timeout_seconds=20)
        assert (state.status, state.reason) == (RunStatus.STOPPED, "sigterm")


class TestLaunching:
    @pytest.mark.slow
    def test_the_trainer_gets_lock_number_token_and_device(self, run: RunDir) -> None:
        program = "import os, json, sys; print(json.dumps(dict(os.environ)))"
        start(run, command=(sys.executable, "-c", program, str(run.path)))
        wait(run, timeout_seconds=20)
        handed = Handover.of(json.loads(run.train_log.read_text()))
        assert (handed.attempt, handed.token) == (1, run.read_attempt(1).token)
        assert handed.lock is not None
        assert handed.meeting is None

    @pytest.mark.parametrize(("device", "shown"), [("cuda:1", "1"), ("default", None), ("cuda:x", None)])
    def test_a_queue_device_shows_one_gpu(self, device: str, shown: str | None) -> None:
        assert supervisor._visible_devices(device).get("CUDA_VISIBLE_DEVICES") == shown

    @pytest.mark.slow
    def test_it_needs_no_torch(self) -> None:
        program = "import sys, backend.manager.supervisor; sys.exit('torch' in sys.modules)"
        ended = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=False)
        assert ended.returncode == 0


class TestReady:
    def heard(self, *errors: RunError) -> Any:
        reader, writer = os.pipe()
        ready = Ready(writer)
        ready.say(*errors)
        ready.say()
        with os.fdopen(reader, "rb") as stream:
            return json.loads(stream.read())

    def test_all_well(self) -> None:
        assert self.heard() == {}

    def test_an_error(self) -> None:
        error = RunError("Bad.", remedy="Mend it.", code="bad", next_step=NextStep.WATCH, about="food")
        words = {"message": "Bad.", "remedy": "Mend it.", "code": "bad"}
        assert self.heard(error) == {**words, "next_step": "watch", "about": "food"}

    def test_nobody_listens(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        Ready(writer).say()
        Ready(None).say()
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(writer)


class TestDoor:
    def test_a_run_that_is_held_is_refused(self, run: RunDir) -> None:
        with run.lock():
            assert supervisor.main([str(run.path), "true"]) == 1

    def test_a_breakdown_is_told_and_logged(
        self, run: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def break_down(*_: object) -> None:
            raise ZeroDivisionError("of all things")

        monkeypatch.setattr(supervisor, "own", break_down)
        reader, writer = os.pipe()
        assert supervisor.main([str(run.path), f"--ready-fd={writer}", "true"]) == 1
        with os.fdopen(reader, "rb") as stream:
            assert json.loads(stream.read())["code"] == "supervisor-broke"
        assert "of all things" in capsys.readouterr().err

    @pytest.mark.slow
    def test_owning_checks_the_state_under_the_lock(self, run: RunDir) -> None:
        start(run, command=stand_in(run, "steps=1"))
        wait(run, timeout_seconds=20)
        with pytest.raises(RunError, match="is finished, so it cannot start"):
            own(run, ("true",), Policy(), Ready(None))
        assert not run.is_held()


@pytest.mark.slow
def test_the_supervisor_records_itself(run: RunDir) -> None:
    start(run, command=stand_in(run, "steps=100000"))
    attempt = eventually(run.latest_attempt)
    assert attempt.supervisor == identify(attempt.supervisor.pid if attempt.supervisor else 0)
    stop(run)
