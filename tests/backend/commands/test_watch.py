"""A run as it trains: backend/commands/watch.py."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from backend.commands import watch as watch_module
from backend.commands.cli import main
from backend.commands.watch import (
    LOG_LINES,
    Snapshot,
    figures,
    headline,
    machine,
    plain_lines,
    progress_words,
    snapshot_record,
    take_snapshot,
    view,
)
from backend.errors import NextStep
from backend.manager import process_manager
from backend.manager.curves import time_left
from backend.manager.queue_manager import QueueManager
from backend.manager.scalars import RunScalars
from backend.run.environment import Environment
from backend.run.folder import RunDir
from backend.run.reports import Outcome, RunState, RunStatus
from tests.backend.manager.conftest import stand_in
from tests.eventually import eventually
from tests.runs import LONG, make_run


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


Screen = pytest.CaptureFixture[str]
SAMPLE = {
    "cpu_percent": 87.4,
    "memory_used_bytes": 3 * 2**30,
    "memory_total_bytes": 16 * 2**30,
    "disk_free_bytes": 72 * 2**30,
    "gpus": [],
}


def snapshot(status: RunStatus = RunStatus.RUNNING, **changes: object) -> Snapshot:
    made = Snapshot(
        run="20260101-000000-food-0001",
        title="food",
        state=RunState(status, "training", "Training is under way.", next_step=NextStep.WATCH),
        next_action="Watch it.",
        step=50,
        total_steps=200,
        loss=1.25,
        eval_loss=1.5,
        tokens_per_second=3400.4,
        learning_rate=0.00195,
        eta_seconds=83.0,
        loss_curve=([1, 25, 50], [4.0, 2.0, 1.25]),
        eval_curve=([0, 50], [4.5, 1.5]),
        system=SAMPLE,
        log=("INFO Resuming after step 10",),
    )
    return replace(made, **changes)


def drawn(shown: Snapshot, width: int = 90) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    with console.capture() as capture:
        console.print(view(shown, width))
    return capture.get()


class TestWords:
    def test_progress_and_figures(self) -> None:
        assert progress_words(snapshot()) == "50/200 · 1:23 min left"
        assert (
            figures(snapshot())
            == "loss 1.2500 · held-out loss 1.5000 · 3,400 tokens/s · learning rate 0.0019"
        )

    def test_what_is_not_known_is_left_out(self) -> None:
        unknown = snapshot(eta_seconds=None, eval_loss=None, tokens_per_second=None, learning_rate=None)
        assert progress_words(unknown) == "50/200"
        assert figures(unknown) == "loss 1.2500"

    def test_preferences_stand_beside_their_loss(self) -> None:
        shown = figures(snapshot(preference="margin 2", held_out_preference="margin 1"))
        assert shown.startswith("loss 1.2500 · margin 2 · held-out loss 1.5000 · margin 1 · 3,400")

    def test_rewards_stand_before_the_loss(self) -> None:
        shown = figures(snapshot(reward="reward 0.5", held_out_reward="reward 0.4"))
        assert shown.startswith("reward 0.5 · held-out reward 0.4 · loss 1.2500 · ")

    def test_texts_have_two_figures_more(self) -> None:
        assert "1.5000 · 0.9000 bits per byte · general texts 2.5000 · 3,400" in figures(
            snapshot(bits_per_byte=0.9, forgetting_loss=2.5)
        )

    def test_the_machine(self) -> None:
        assert machine(snapshot()) == "processor 87 % · memory 3.0 of 16.0 GiB · 72 GiB disk free"
        assert machine(snapshot(system={})) == ""
        gpus = [{"index": 0, "busy_percent": 55.0}, {"index": 1, "busy_percent": 5.0}]
        assert machine(snapshot(system={"gpus": gpus})) == "GPU 0 55 % · GPU 1 5 %"


class TestView:
    @pytest.mark.parametrize("width", [20, 60, 90, 200])
    def test_it_holds_everything_and_fits(self, width: int) -> None:
        lines = drawn(snapshot(), width).splitlines()
        assert {len(line) for line in lines} == {len(lines[0])}
        assert len(lines[0]) <= max(width, 44)

    def test_its_parts(self) -> None:
        screen = drawn(snapshot())
        parts = ["food", "Running · Training is under way.", "50/200 · 1:23 min left", "loss 1.2500", "87 %"]
        assert [
            part for part in [*parts, "training loss", "4┤", "1.25┤", "Resuming"] if part not in screen
        ] == []
        assert "Watch it." not in screen

    def test_what_to_do_next_comes_at_the_end(self) -> None:
        screen = drawn(snapshot(RunStatus.STOPPED))
        assert "Watch it." in screen

    def test_a_run_without_a_step_has_no_bar_and_no_curve(self) -> None:
        empty = snapshot(RunStatus.CREATED, step=0, total_steps=0, loss_curve=([], []), system={}, log=())
        assert "training loss" not in drawn(empty)
        assert plain_lines(empty) == ["food", "Created · Training is under way.", "Watch it."]


class TestLog:
    def test_the_last_lines_of_the_log(self, tmp_path: Path) -> None:
        run = RunDir.create(tmp_path, "a", "seed: 1")
        assert take_snapshot(run, RunScalars(run)).log == ()
        run.train_log.write_bytes(b"".join(b"\x1b[31mline %d\x1b[0m\n\n" % number for number in range(9)))
        log = take_snapshot(run, RunScalars(run)).log
        assert log == tuple(f"line {number}" for number in range(9 - LOG_LINES, 9))


def test_all_figures_are_those_of_one_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.create(tmp_path, "a", "seed: 1")
    run.metrics_file.write_text('{"step":1,"total_steps":9,"train/loss":2.0}\n')
    scalars = RunScalars(run)
    scalars.poll()
    with run.metrics_file.open("a") as file:  # the next step, after the curves were read
        file.write('{"step":2,"total_steps":9,"train/loss":1.0}\n')
    monkeypatch.setattr(scalars, "poll", lambda: 0)
    seen = take_snapshot(run, scalars)
    assert (seen.step, seen.total_steps, seen.loss) == (1, 9, 2.0)
    assert seen.loss_curve == ([1], [2.0])


class TestAFinishedRun:
    def test_once(self, trained: RunDir, capsys: Screen) -> None:
        assert main(["runs", "watch", str(trained.path), "--once"]) == 0
        screen = capsys.readouterr().out
        assert "Finished · " in screen
        assert "step 20/20" in screen
        assert "training loss █" in screen
        assert "left" not in screen

    def test_it_does_not_wait_for_what_is_over(self, trained: RunDir, capsys: Screen) -> None:
        assert main(["runs", "watch", str(trained.path)]) == 0
        assert "Finished" in capsys.readouterr().out

    def test_as_json(self, trained: RunDir, capsys: Screen) -> None:
        assert main(["runs", "watch", str(trained.path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["status"], found["live"], found["step"]) == ("finished", False, 20)
        assert found["loss_curve"]["steps"] == list(range(1, 21))
        assert found["eval_curve"]["steps"] == [0, 10, 20]
        assert found["eta_seconds"] is None
        assert found == json.loads(json.dumps(snapshot_record(take_snapshot(trained, RunScalars(trained)))))

    def test_a_damaged_run_has_a_face(self, trained: RunDir, tmp_path: Path, capsys: Screen) -> None:
        broken = RunDir(Path(shutil.copytree(trained.path, tmp_path / "broken")))
        broken.outcome_file.write_text("{")
        assert main(["runs", "watch", str(broken.path)]) == 1
        assert "damaged" in capsys.readouterr().out


class TestALiveRun:
    @pytest.mark.slow
    @pytest.mark.usefixtures("light_trainer")
    def test_it_is_followed_to_its_end(
        self, tmp_path: Path, learner: Path, rows_file: Path, capsys: Screen
    ) -> None:
        made = make_run(tmp_path / "runs", learner, rows_file)
        process_manager.start(made)
        assert main(["runs", "watch", made.id, "--interval", "0.05"]) == 0
        screen = capsys.readouterr().out
        assert screen.startswith(("starting", "running"))
        assert "Finished · Trained 100 steps." in screen
        assert not made.is_held()

    def test_a_live_view_in_a_terminal_until_it_is_stopped(
        self,
        tmp_path: Path,
        learner: Path,
        rows_file: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: Screen,
    ) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "100")
        made = make_run(tmp_path / "runs", learner, rows_file, LONG)
        process_manager.start(made, command=stand_in(made, "steps=100000"))
        eventually(lambda: len(made.metrics().records) > 3 and made.system_file.exists(), timeout_seconds=120)
        now = take_snapshot(made, RunScalars(made))
        assert now.eta_seconds is not None
        assert "disk free" in machine(now)
        stopper = threading.Timer(0.5, process_manager.stop, [made])
        stopper.start()
        assert main(["runs", "watch", made.id, "--interval", "0.1"]) == 3
        stopper.join()
        screen = capsys.readouterr().out
        assert "Training is under way." in screen
        assert "100,000" in screen
        assert "Stopped" in screen

    def test_control_c_leaves_and_the_run_goes_on(
        self, monkeypatch: pytest.MonkeyPatch, trained: RunDir, capsys: Screen
    ) -> None:
        def leave(*_: object) -> Snapshot:
            raise KeyboardInterrupt

        monkeypatch.setattr(watch_module, "take_snapshot", leave)
        assert main(["runs", "watch", str(trained.path)]) == 0
        assert "The run goes on." in capsys.readouterr().out


def test_b2_who_watches_a_queued_run_starts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(run: RunDir) -> None:
        run.begin_attempt(("a",))
        run.write_outcome(Outcome(RunStatus.FINISHED, "completed", "Trained 4 steps."))

    run = RunDir.create(tmp_path, "waiting", "seed: 1")
    monkeypatch.setattr(QueueManager.__init__, "__defaults__", (start,))
    QueueManager(tmp_path).enqueue(run)
    assert main(["runs", "watch", run.id, "--runs", str(tmp_path), "--interval", "0.05"]) == 0
    assert "Finished · Trained 4 steps." in capsys.readouterr().out


def test_c8_the_panel_obeys_no_text_of_the_run(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "evil", "seed: 1")
    run.begin_attempt(("a",))
    run.write_outcome(Outcome(RunStatus.FAILED, "x", "\x1b]0;title\x07", "\x1b[2J"))
    run.train_log.write_text("\x1b[31mred\n")
    run.labels_file.write_text(json.dumps({"name": "\x1b[5mblink"}))
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None)
    console.print(view(take_snapshot(run, RunScalars(run)), 100))
    assert "\x1b[5m" not in screen.getvalue()
    assert set(screen.getvalue()).isdisjoint("\x1b\x07")


def test_the_time_left_is_that_of_the_run_s_page(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "evaluating", "seed: 1")
    with run.lock(), run.metrics_writer() as metrics:
        run.begin_attempt(("a",), pid=os.getpid())
        run.write_environment(Environment())
        for step in range(1, 11):
            metrics.append(
                {"kind": "train", "step": step, "total_steps": 20, "seconds": 1.0, "train/loss": 1.0}
            )
            metrics.append({"kind": "eval", "step": step, "seconds": 3.0, "eval/loss": 1.0})
        scalars = RunScalars(run)
        snapshot = take_snapshot(run, scalars)
    left = time_left(scalars)
    assert left is not None
    assert snapshot.eta_seconds == left.seconds == pytest.approx(40.0)


def test_f06_a_frozen_run_has_no_time_left_but_a_way_out(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "frozen", "seed: 1")
    with run.lock(), run.metrics_writer() as metrics:
        run.begin_attempt(("a",), pid=os.getpid())
        run.write_environment(Environment())
        for step in range(1, 5):
            metrics.append(
                {"kind": "train", "step": step, "total_steps": 9, "seconds": 1.0, "train/loss": 1.0}
            )
        for path in (run.metrics_file, run.environment, run.attempts, run.path):
            os.utime(path, (1, 1))
        snapshot = take_snapshot(run, RunScalars(run))
    assert snapshot.eta_seconds is None
    assert "Not responding" in headline(snapshot)
    assert "process" in headline(snapshot)
