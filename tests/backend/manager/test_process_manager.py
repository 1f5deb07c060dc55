"""Starting, stopping and watching real processes: backend/manager/process_manager.py."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier

import psutil
import pytest

from backend.errors import RunError
from backend.manager import process_manager
from backend.manager.attempts import Policy, members
from backend.manager.process_manager import kill, pause, start, stop, trainer_command, wait
from backend.manager.ranks import torchrun_command
from backend.run.folder import CONFIG_END, RunDir
from backend.run.reports import Attempt, RunState, RunStatus
from backend.utils.process_utils import ProcessIdentity, send_signal
from tests.backend.manager.conftest import processes_of, stand_in
from tests.eventually import eventually

pytestmark = pytest.mark.slow

LONG = ("steps=100000", "pause=0.02")
QUICK = Policy(term_seconds=0.2, grace_seconds=1.0)


def running(run: RunDir) -> Attempt:
    eventually(lambda: run.status() is RunStatus.RUNNING)
    attempt = run.latest_attempt()
    assert attempt is not None
    return attempt


def process_of(attempt: Attempt) -> ProcessIdentity:
    assert attempt.process is not None
    return attempt.process


def supervisor_of(attempt: Attempt) -> ProcessIdentity:
    assert attempt.supervisor is not None
    return attempt.supervisor


class TestStarting:
    def test_a_run_goes_from_created_to_finished(self, run: RunDir) -> None:
        state = start(run, command=stand_in(run))
        assert state.status in {RunStatus.STARTING, RunStatus.RUNNING}
        assert wait(run, timeout_seconds=20).status is RunStatus.FINISHED
        assert "step 20" in run.train_log.read_text()
        attempt = run.read_attempt(1)
        assert attempt.end is not None
        assert (attempt.end.reason, attempt.end.exit_code) == ("exited", 0)
        assert run.supervisor_log.read_text() == ""

    def test_it_starts_before_it_reports(self, run: RunDir) -> None:
        start(run, command=stand_in(run, "late"))
        assert run.status() is RunStatus.STARTING
        (run.path / "go").touch()
        assert wait(run, timeout_seconds=20).status is RunStatus.FINISHED

    def test_w08_the_trainer_is_no_child_of_ours(self, run: RunDir) -> None:
        start(run, command=stand_in(run, *LONG))
        attempt = running(run)
        children = [process.pid for process in psutil.Process().children(recursive=True)]
        assert process_of(attempt).pid not in children
        assert supervisor_of(attempt).pid not in children
        assert os.getsid(process_of(attempt).pid) == process_of(attempt).pid
        stop(run)

    def test_w09_it_works_from_any_folder(
        self, run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "backend").mkdir()
        (tmp_path / "backend" / "__init__.py").write_text("raise SystemExit('the wrong backend')")
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("PYTHONPATH", raising=False)
        start(run, command=stand_in(run))
        assert wait(run, timeout_seconds=20).status is RunStatus.FINISHED

    def test_w09_the_real_trainer_is_named_in_full(self, run: RunDir) -> None:
        command = trainer_command(run)
        assert Path(command[0]).is_absolute()
        assert command[-3:] == ("-m", "backend.trainer_main", str(run.path))
        assert "-u" in command

    def test_w05_a_child_that_dies_at_once_is_seen_at_once(self, run: RunDir) -> None:
        before = time.monotonic()
        start(run, command=(sys.executable, "-c", "raise SystemExit('no such model')"))
        state = wait(run, timeout_seconds=20)
        assert time.monotonic() - before < 5
        assert (state.status, state.reason) == (RunStatus.FAILED, "error")
        assert "no such model" in run.train_log.read_text()

    def test_a_program_that_is_not_there_is_an_error(self, run: RunDir) -> None:
        with pytest.raises(RunError, match="could not be started") as caught:
            start(run, command=("/no/such/program",))
        assert caught.value.code == "cannot-start"
        assert wait(run, timeout_seconds=10).status is RunStatus.FAILED

    def test_a_supervisor_that_never_speaks_is_an_error(
        self, run: RunDir, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(process_manager, "_supervisor_command", lambda *_: [sys.executable, "-c", "pass"])
        with pytest.raises(RunError, match="did not start") as caught:
            start(run)
        assert caught.value.code == "cannot-start"

    def test_a_finished_run_is_not_started_again(self, run: RunDir) -> None:
        start(run, command=stand_in(run, "steps=1"))
        wait(run, timeout_seconds=20)
        with pytest.raises(RunError, match="is finished, so it cannot start") as caught:
            start(run, command=stand_in(run))
        assert caught.value.code == "illegal-transition"
        assert run.latest_attempt_number() == 1

    def test_a_damaged_config_is_not_started(self, run: RunDir) -> None:
        run.config.write_text("model:\n")
        with pytest.raises(RunError, match="cut short"):
            start(run, command=stand_in(run))
        assert run.latest_attempt_number() == 0

    def test_a_damaged_outcome_is_set_aside(self, run: RunDir) -> None:
        run.begin_attempt(("a",))
        run.outcome_file.write_text("{")
        start(run, command=stand_in(run))
        assert wait(run, timeout_seconds=20).status is RunStatus.FINISHED
        assert [path.read_text() for path in run.path.glob("outcome.json.damaged-*")] == ["{"]

    def test_a_full_disk_is_noticed_beforehand(self, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("backend.manager.system_manager.free_bytes", lambda _: 1000)
        with pytest.raises(RunError, match="1,000 bytes free") as caught:
            start(run, command=stand_in(run))
        assert caught.value.code == "disk-low"
        assert str(run.path) in caught.value.message

    def test_a_run_is_not_deleted_while_its_disk_is_looked_at(
        self, run: RunDir, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def delete(_: Path) -> int:
            with run.hold_for_deleting():
                raise FileNotFoundError(run.path)

        monkeypatch.setattr("backend.manager.system_manager.free_bytes", delete)
        with pytest.raises(RunError) as caught:
            start(run, command=stand_in(run))
        assert caught.value.code == "in-use"

    def test_a_run_that_is_gone_is_not_started(self, run: RunDir) -> None:
        command = stand_in(run)
        shutil.rmtree(run.path)
        with pytest.raises(RunError) as caught:
            start(run, command=command)
        assert caught.value.code == "no-such-run"

    def test_a_run_of_several_machines_is_torchrun_s_to_start(self, run: RunDir) -> None:
        run.config.write_text(f"data:\n  train: rows.jsonl\ntraining:\n  nnodes: 2\n{CONFIG_END}\n")
        with pytest.raises(RunError, match="for several machines") as caught:
            start(run, command=stand_in(run))
        assert caught.value.code == "several-machines"
        assert torchrun_command(run) in caught.value.remedy
        assert run.status() is RunStatus.CREATED


class TestOnlyOnce:
    def test_w06_f12_eight_threads_start_one_trainer(self, run: RunDir) -> None:
        barrier = Barrier(8)

        def try_it(_: int) -> str:
            barrier.wait()
            try:
                start(run, command=stand_in(run, *LONG))
            except RunError as error:
                return error.code
            return "started"

        with ThreadPoolExecutor(8) as pool:
            answers = sorted(pool.map(try_it, range(8)))
        assert answers == ["already-running"] * 7 + ["started"]
        running(run)
        assert run.latest_attempt_number() == 1
        eventually(lambda: len(processes_of(run.path)) == 2)  # one supervisor, one trainer
        stop(run)

    def test_f12_four_processes_start_one_trainer(self, run: RunDir) -> None:
        program = (
            "import sys, pathlib\n"
            "from backend.errors import RunError\n"
            "from backend.manager.process_manager import start\n"
            "from backend.run.folder import RunDir\n"
            "try:\n"
            "    start(RunDir(pathlib.Path(sys.argv[1])), command=sys.argv[2:])\n"
            "except RunError as error:\n"
            "    sys.exit(9 if error.code == 'already-running' else 1)\n"
        )
        command = [sys.executable, "-c", program, str(run.path), *stand_in(run, *LONG)]
        doors = [subprocess.Popen(command, cwd=Path(__file__).parents[3]) for _ in range(4)]
        assert sorted(door.wait(60) for door in doors) == [0, 9, 9, 9]
        running(run)
        stop(run)

    def test_a_second_start_is_told_so(self, run: RunDir) -> None:
        start(run, command=stand_in(run, *LONG))
        with pytest.raises(RunError, match="being worked on already") as caught:
            start(run, command=stand_in(run))
        assert caught.value.code == "already-running"
        stop(run)


class TestStopping:
    def test_w01_a_stop_stops(self, run: RunDir) -> None:
        start(run, command=stand_in(run, *LONG))
        running(run)
        state = stop(run)
        assert (state.status, state.reason) == (RunStatus.STOPPED, "stop-requested")
        eventually(lambda: processes_of(run.path) == [])

    def test_w04_a_stop_deletes_nothing(self, run: RunDir) -> None:
        start(run, command=stand_in(run, *LONG, "checkpoint"))
        running(run)
        eventually(lambda: run.newest_checkpoint_step() >= 5)
        before = {path.name for path in run.path.iterdir()}
        stop(run)
        assert before <= {path.name for path in run.path.iterdir()} | {"stop", "reserve"}
        assert run.newest_checkpoint_step() >= 5

    def test_a_pause_says_so_and_a_resume_goes_on(self, run: RunDir) -> None:
        start(run, command=stand_in(run, *LONG, "checkpoint"))
        eventually(lambda: run.newest_checkpoint_step() >= 5)
        assert pause(run).reason == "paused"
        reached = run.newest_checkpoint_step()
        start(run, command=stand_in(run, f"steps={reached + 5}"))
        assert wait(run, timeout_seconds=20).status is RunStatus.FINISHED
        steps = [record["step"] for record in run.metrics().records]
        assert steps == list(range(1, reached + 6))

    @pytest.mark.parametrize(
        ("deaf", "end", "reason"), [("", stop, "stop-requested"), ("deaf", pause, "paused")]
    )
    def test_f04_a_stop_before_the_first_step_is_a_stop(
        self, run: RunDir, deaf: str, end: Callable[..., RunState], reason: str
    ) -> None:
        """It dies of SIGTERM, or of SIGKILL when it does not heed that: nothing was trained, so nothing is lost."""
        start(run, policy=QUICK, command=stand_in(run, "late", deaf))
        assert run.status() is RunStatus.STARTING
        state = end(run, policy=QUICK)
        assert (state.status, state.reason) == (RunStatus.STOPPED, reason)
        assert "before it had begun to train" in state.message
        assert wait(run, timeout_seconds=1) == run.state() == state

    def test_f04_sigterm_follows_a_request_that_is_not_heeded(self, run: RunDir) -> None:
        start(run, policy=QUICK, command=stand_in(run, *LONG, "only-term"))
        running(run)
        assert stop(run, policy=QUICK).reason == "sigterm"

    def test_f05_sigkill_follows_a_sigterm_that_is_not_heeded(self, run: RunDir) -> None:
        start(run, policy=QUICK, command=stand_in(run, *LONG, "deaf", "child"))
        running(run)
        state = stop(run, policy=QUICK)
        assert (state.status, state.reason) == (RunStatus.INTERRUPTED, "stop-forced")
        eventually(lambda: processes_of(run.path) == [])

    def test_a_slow_step_is_waited_for(self, run: RunDir) -> None:
        """No step has been timed yet, so nobody can say that it hangs."""
        start(run, policy=Policy(term_seconds=0.1), command=stand_in(run, "steps=10", "pause=1.5"))
        running(run)
        assert stop(run, policy=Policy(term_seconds=0.1)).status is RunStatus.STOPPED

    def test_a_wait_that_is_asked_for_is_kept(self, run: RunDir) -> None:
        start(run, command=stand_in(run, *LONG, "deaf"))
        running(run)
        assert stop(run, wait_seconds=0.3).reason == "stop-forced"

    def test_f05_a_suspended_trainer_is_ended_too(self, run: RunDir) -> None:
        start(run, policy=QUICK, command=stand_in(run, *LONG))
        send_signal(process_of(running(run)), signal.SIGSTOP)
        assert stop(run, policy=QUICK).reason == "stop-forced"

    def test_w08_grandchildren_go_with_the_trainer(self, run: RunDir) -> None:
        start(run, command=stand_in(run, *LONG, "child"))
        attempt = running(run)
        helpers = eventually(lambda: [one for one in members(run, attempt) if one != process_of(attempt)])
        stop(run)
        assert members(run, attempt) == []
        assert not any(send_signal(helper, signal.SIGTERM) for helper in helpers)

    def test_w08_a_stranger_of_the_same_name_lives_on(self, run: RunDir, root: Path) -> None:
        other = RunDir.create(root, "other", "seed: 1")
        for one in (run, other):
            start(one, command=stand_in(one, *LONG))
            running(one)
        stop(run)
        assert other.status() is RunStatus.RUNNING
        stop(other)

    @pytest.mark.parametrize("end", [stop, pause, kill])
    def test_what_does_not_run_cannot_be_stopped(self, run: RunDir, end: object) -> None:
        assert callable(end)
        with pytest.raises(RunError, match="is not running") as caught:
            end(run)
        assert caught.value.code == "not-running"
        assert run.stop_requested() is None

    def test_killing_ends_at_once_without_another_try(self, run: RunDir) -> None:
        start(run, policy=Policy(restarts=5), command=stand_in(run, *LONG, "deaf"))
        running(run)
        state = kill(run)
        assert (state.status, state.reason) == (RunStatus.INTERRUPTED, "ended-at-once")
        assert run.latest_attempt_number() == 1

    def test_f05_what_survives_is_named_never_called_stopped(
        self, run: RunDir, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(process_manager, "_AFTER_GRACE_SECONDS", 0.2)
        with run.lock():
            run.begin_attempt(("a",), pid=os.getpid(), token="01234567")
            monkeypatch.setattr(process_manager, "kill_all", lambda *_: 0)
            with pytest.raises(RunError, match=f"processes: {os.getpid()}") as caught:
                kill(run)
        assert caught.value.code == "still-alive"


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class TestAFullDisk:
    """The request cannot be written, as where nothing was set aside: the trainer is told another way."""

    def test_f14_a_stop_is_a_sigterm(self, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
        start(run, command=stand_in(run, *LONG))
        running(run)
        monkeypatch.setattr(RunDir, "request_stop", refuse)
        assert stop(run, policy=QUICK).reason == "sigterm"

    def test_f14_a_deaf_trainer_is_killed_after_the_grace(
        self, run: RunDir, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start(run, command=stand_in(run, *LONG, "deaf", "child"))
        attempt = running(run)
        monkeypatch.setattr(RunDir, "request_stop", refuse)
        assert stop(run, policy=QUICK).status is RunStatus.INTERRUPTED
        assert members(run, attempt) == []

    def test_f14_a_kill_kills(self, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
        start(run, command=stand_in(run, *LONG, "deaf"))
        running(run)
        monkeypatch.setattr(RunDir, "request_stop", refuse)
        assert kill(run).status is RunStatus.INTERRUPTED


class TestAPersonsOwnProcess:
    """A run in a command, script or notebook of the person's own."""

    @pytest.fixture
    def script(self, run: RunDir) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
        """Starts a script that works on the run by itself; its words say when to leave the run."""

        def begin(until: str) -> subprocess.Popen[str]:
            program = (
                "import os, pathlib, sys, time\n"
                "from backend.run.folder import RunDir\n"
                "run = RunDir(pathlib.Path(sys.argv[1]))\n"
                "with run.lock():\n"
                "    attempt = run.begin_attempt(('script',), pid=os.getpid())\n"
                "    print('begun', flush=True)\n"
                f"    while not ({until}):\n"
                "        time.sleep(0.01)\n"
                "    run.end_attempt(attempt, 'exited', exit_code=3)\n"
                "time.sleep(0.3)\n"
                "print('and then something else')\n"
            )
            child = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", program, str(run.path)],
                    cwd=Path(__file__).parents[3],
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(child.kill)
            assert child.stdout is not None
            assert child.stdout.readline() == "begun\n"
            return child

        with ExitStack() as stack:
            yield begin

    @pytest.mark.parametrize("end", [stop, pause])
    def test_a_stop_lets_it_go_on_after_the_run(
        self, run: RunDir, script: Callable[[str], subprocess.Popen[str]], end: Callable[..., RunState]
    ) -> None:
        child = script("run.stop_requested()")
        end(run)
        said, _ = child.communicate()
        assert (said, child.returncode) == ("and then something else\n", 0)

    def test_one_that_does_not_heed_a_stop_is_left_stopping(
        self,
        run: RunDir,
        script: Callable[[str], subprocess.Popen[str]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(process_manager, "_AFTER_GRACE_SECONDS", 0.2)
        child = script("False")
        assert stop(run, wait_seconds=0.1, policy=QUICK).status is RunStatus.STOPPING
        assert child.poll() is None

    def test_a_kill_is_refused_and_names_the_process(
        self, run: RunDir, script: Callable[[str], subprocess.Popen[str]]
    ) -> None:
        child = script("False")
        with pytest.raises(RunError, match=f"process {child.pid}") as caught:
            kill(run)
        assert caught.value.code == "own-process"
        assert child.poll() is None

    def test_where_nothing_can_be_written_it_is_not_signalled_to_death(
        self,
        run: RunDir,
        script: Callable[[str], subprocess.Popen[str]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(process_manager, "_AFTER_GRACE_SECONDS", 0.2)
        child = script("False")
        monkeypatch.setattr(RunDir, "request_stop", refuse)
        stop(run, policy=QUICK)
        assert child.poll() is None


class TestWithoutSupervisor:
    def test_f08_the_trainer_outlives_its_supervisor(self, run: RunDir) -> None:
        start(run, command=stand_in(run, "steps=30", "pause=0.02"))
        attempt = running(run)
        assert send_signal(supervisor_of(attempt), signal.SIGKILL)
        assert run.status() is RunStatus.RUNNING
        assert wait(run, timeout_seconds=20).status is RunStatus.FINISHED

    def test_f08_a_door_can_still_stop_it(self, run: RunDir) -> None:
        start(run, command=stand_in(run, *LONG, "deaf", "child"))
        attempt = running(run)
        send_signal(supervisor_of(attempt), signal.SIGKILL)
        eventually(lambda: not send_signal(supervisor_of(attempt), signal.SIGKILL))
        assert stop(run, policy=QUICK).status is RunStatus.INTERRUPTED
        assert members(run, attempt) == []

    def test_w08_helpers_go_even_when_nobody_supervised_the_end(self, run: RunDir) -> None:
        start(run, command=stand_in(run, *LONG, "child"))
        attempt = running(run)
        eventually(lambda: len(members(run, attempt)) == 2)
        send_signal(supervisor_of(attempt), signal.SIGKILL)
        assert stop(run).status is RunStatus.STOPPED
        eventually(lambda: members(run, attempt) == [])
        assert not run.is_held()

    def test_w08_a_new_attempt_sweeps_up_after_the_last(self, run: RunDir) -> None:
        start(run, command=stand_in(run, *LONG, "child"))
        attempt = running(run)
        eventually(lambda: len(members(run, attempt)) == 2)
        send_signal(supervisor_of(attempt), signal.SIGKILL)
        send_signal(process_of(attempt), signal.SIGKILL)
        eventually(lambda: not run.is_held())
        start(run, command=stand_in(run, "steps=1"))
        wait(run, timeout_seconds=20)
        assert members(run, attempt) == []

    def test_f08_f09_both_killed_is_interrupted(self, run: RunDir) -> None:
        start(run, command=stand_in(run, *LONG))
        attempt = running(run)
        send_signal(supervisor_of(attempt), signal.SIGKILL)
        send_signal(process_of(attempt), signal.SIGKILL)
        eventually(lambda: not run.is_held(), timeout_seconds=1)
        state = run.state()
        assert (state.status, state.reason) == (RunStatus.INTERRUPTED, "lost")

    def test_w02_f07_a_new_door_finds_a_run_that_an_old_one_started(self, run: RunDir) -> None:
        program = (
            "import sys, pathlib, os\n"
            "from backend.manager.process_manager import start\n"
            "from backend.run.folder import RunDir\n"
            "start(RunDir(pathlib.Path(sys.argv[1])), command=sys.argv[2:])\n"
            "os.kill(os.getpid(), 9)\n"
        )
        command = [sys.executable, "-c", program, str(run.path), *stand_in(run, *LONG)]
        door = subprocess.run(command, cwd=Path(__file__).parents[3], start_new_session=True, check=False)
        assert door.returncode == -signal.SIGKILL
        eventually(lambda: run.status() is RunStatus.RUNNING, timeout_seconds=2)
        assert stop(run).status is RunStatus.STOPPED


def test_w03_a_finished_run_outlives_whoever_started_it(run: RunDir) -> None:
    program = (
        "import sys, pathlib\n"
        "from backend.manager.process_manager import start, wait\n"
        "from backend.run.folder import RunDir\n"
        "run = RunDir(pathlib.Path(sys.argv[1]))\n"
        "start(run, command=sys.argv[2:])\n"
        "wait(run, timeout_seconds=20)\n"
    )
    command = [sys.executable, "-c", program, str(run.path), *stand_in(run, "checkpoint")]
    subprocess.run(command, cwd=Path(__file__).parents[3], check=True)
    assert run.status() is RunStatus.FINISHED
    assert run.newest_checkpoint_step() == 20
    assert run.train_log.exists()


def test_w07_one_door_starts_one_run_after_another(root: Path) -> None:
    for number in range(3):
        run = RunDir.create(root, f"run{number}", "seed: 1")
        start(run, command=stand_in(run, "steps=2"))
        assert wait(run, timeout_seconds=20).status is RunStatus.FINISHED


def test_w07_a_start_that_failed_is_no_obstacle(run: RunDir) -> None:
    with pytest.raises(RunError):
        start(run, command=("/no/such/program",))
    wait(run, timeout_seconds=10)
    start(run, command=stand_in(run, "steps=2"))
    assert wait(run, timeout_seconds=20).status is RunStatus.FINISHED


def test_w21_words_in_a_log_are_no_errors(run: RunDir) -> None:
    interpreter, script, folder = stand_in(run)
    program = (
        f"import sys, runpy; sys.argv = [{script!r}, {folder!r}, 'steps=2'];"
        "print('Error: 0 errors so far, Traceback none');"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    start(run, command=(interpreter, "-c", program))
    state = wait(run, timeout_seconds=20)
    assert "0 errors so far" in run.train_log.read_text()
    assert (state.status, state.reason) == (RunStatus.FINISHED, "completed")


def test_waiting_ends_with_its_time(run: RunDir) -> None:
    start(run, command=stand_in(run, *LONG))
    assert wait(run, timeout_seconds=0.1).is_live
    stop(run)
