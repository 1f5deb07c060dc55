"""Each way a trainer can end, in a process of its own: exit code, outcome, state, screen and log."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.reports import RunStatus
from backend.run_dir import RunDir
from tests.eventually import eventually
from tests.runs import LONG, SHORT, make_run, series, start_trainer, write_rows
from tests.trainers import End, Trainer, Trainers

SCENES: dict[str, tuple[int, str, RunStatus]] = {
    "finished": (0, "completed", RunStatus.FINISHED),
    "unforeseen": (1, "internal-error", RunStatus.FAILED),
    "no room": (1, "cannot-save", RunStatus.FAILED),
    "bad data": (2, "empty-file", RunStatus.FAILED),
    "stop file": (3, "stop-requested", RunStatus.STOPPED),
    "SIGINT": (130, "sigint", RunStatus.STOPPED),
    "SIGTERM": (143, "sigterm", RunStatus.STOPPED),
    "two signals": (143, "", RunStatus.INTERRUPTED),
}
ACTS: dict[str, Callable[[Trainer], object]] = {
    "stop file": lambda child: child.run.request_stop(),
    "SIGINT": lambda child: child.signal(signal.SIGINT),
    "SIGTERM": lambda child: child.signal(signal.SIGTERM),
    "two signals": lambda child: child.signal(signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT),
}
# a cut .pyc would break every other process
LIMIT = "import resource, sys; sys.dont_write_bytecode = True; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"
CODE = {
    "unforeseen": "trainer.train_steps = None",
    "no room": LIMIT.format(20_000),
}
QUIET = SHORT | {"training.max_steps": 1, "data.validation": 0}

Ended = dict[str, tuple[End, RunDir]]


class TestRealChildren:
    """Each way to end, in a process of its own."""

    @pytest.fixture(scope="class")
    @classmethod
    def ended(
        cls, trainers: Trainers, tmp_path_factory: pytest.TempPathFactory, learner: Path, rows_file: Path
    ) -> Ended:
        folder = tmp_path_factory.mktemp("children")
        data = {"bad data": write_rows(folder / "empty.jsonl", [])}
        ends: Ended = {}
        for name in SCENES:
            made = make_run(
                folder / "runs", learner, data.get(name, rows_file), LONG if name in ACTS else QUIET
            )
            child = trainers.start(made, code=CODE.get(name, ""))
            if name in ACTS:
                eventually(lambda child=child: child.has_written(1), timeout_seconds=60)
                ACTS[name](child)
            ends[name] = child.wait(), made
        return ends

    @pytest.mark.parametrize("scene", SCENES)
    def test_exit_code_outcome_and_status(self, ended: Ended, scene: str) -> None:
        end, made = ended[scene]
        outcome = made.read_outcome()
        assert (end.code, outcome.code if outcome else "", made.status()) == SCENES[scene], end.err

    @pytest.mark.parametrize("scene", [name for name in SCENES if name != "two signals"])
    def test_one_plain_sentence_on_the_screen(self, ended: Ended, scene: str) -> None:
        end, made = ended[scene]
        outcome = made.read_outcome()
        assert outcome is not None
        assert end.err.strip() == f"{outcome.message} {outcome.remedy}".strip()
        assert end.out == ""

    @pytest.mark.parametrize("scene", ["unforeseen", "no room", "bad data"])
    def test_the_traceback_in_the_log(self, ended: Ended, scene: str) -> None:
        made = ended[scene][1]
        assert "Traceback (most recent call last)" in made.train_log.read_text()
        assert made.result_folder() is None

    @pytest.mark.parametrize("scene", ["stop file", "SIGINT", "SIGTERM"])
    def test_whoever_is_asked_to_stop_saves_first(self, ended: Ended, scene: str) -> None:
        made = ended[scene][1]
        outcome = made.read_outcome()
        assert outcome is not None
        assert made.newest_checkpoint_step() == outcome.step > 0
        assert series(made)[-1]["step"] == outcome.step

    def test_the_second_signal_leaves_at_once(self, ended: Ended) -> None:
        end, made = ended["two signals"]
        assert end.err == ""
        assert not made.outcome_file.exists()
        assert not made.checkpoints.exists()

    def test_a_folder_that_lets_nothing_be_written(
        self, trainers: Trainers, tmp_path: Path, learner: Path, rows_file: Path
    ) -> None:
        made = make_run(tmp_path, learner, rows_file, QUIET)
        end = trainers.start(made, code=LIMIT.format(100)).wait()
        assert end.code == 1
        assert "Traceback" not in end.err
        assert end.err.count("\n") == 1
        assert "cannot be written" in end.err

    def test_as_a_module(self, tmp_path: Path, learner: Path, rows_file: Path) -> None:
        """The command that the supervisor runs, without the fork."""
        made = make_run(tmp_path, learner, rows_file, QUIET)
        child = start_trainer(made)
        assert child.communicate(timeout=120) == ("", "Trained 1 steps.\n")
        assert child.returncode == 0
        assert made.status() is RunStatus.FINISHED
