"""One run folder in, a result and an outcome out: backend/trainer_main.py."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend import trainer_main
from backend.errors import RunError
from backend.reports import EvalReport, Outcome, Progress, RunStatus, StepReport
from backend.run_dir import RunDir
from backend.trainer_main import exit_code, main, run
from tests.eventually import eventually
from tests.fakes import FailingFileSystem
from tests.runs import (
    LONG,
    ROWS,
    SHORT,
    lines,
    make_run,
    result_bytes,
    series,
    start_trainer,
    tree,
    write_rows,
)
from tests.trainers import End, Trainer, Trainers

ENDLESS_PROMPT = {"prompt": "word " * 600, "completion": "x"}


@pytest.fixture
def made(tmp_path: Path, learner: Path, rows_file: Path) -> RunDir:
    """A run of four steps, not started."""
    return make_run(tmp_path / "runs", learner, rows_file)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, learner: Path, rows_file: Path) -> RunDir:
    """The run of four steps, carried out in one go."""
    whole = make_run(tmp_path_factory.mktemp("whole"), learner, rows_file)
    assert run(whole).code == "completed"
    return whole


def at_step(step: int, act: Callable[[], object]) -> Callable[[Progress], None]:
    """A watcher that acts once, right after a training step."""

    def watch(progress: Progress) -> None:
        steps = {report.step for report in [progress.report] if isinstance(report, StepReport)}
        _ = [act() for reached in steps if reached == step]

    return watch


def never(*_: object, **__: object) -> None:
    pytest.fail("this should not have been reached")


class TestFinishing:
    def test_the_loss_falls(self, trained: RunDir) -> None:
        losses = [line["train/loss"] for line in series(trained) if line["kind"] == "train"]
        held_out = [line["eval/loss"] for line in series(trained) if line["kind"] == "eval"]
        assert len(losses) == 20
        assert losses[-1] < 0.05 * losses[0]
        assert held_out[-1] < held_out[0]

    def test_everything_lies_where_it_belongs(self, trained: RunDir) -> None:
        outcome = trained.read_outcome()
        assert outcome == Outcome(
            RunStatus.FINISHED,
            "completed",
            "Trained 20 steps.",
            step=20,
            result=str(trained.adapter),
            attempt=1,
        )
        assert trained.status() is RunStatus.FINISHED
        assert sorted(path.name for path in trained.checkpoints.iterdir()) == ["step-000010", "step-000020"]
        assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "manifest.json"} <= {
            path.name for path in trained.adapter.iterdir()
        }
        assert not trained.model.exists()
        assert [path.name for path in trained.path.rglob("*.tmp")] == []

    def test_the_attempt_is_recorded(self, trained: RunDir) -> None:
        attempt = trained.latest_attempt()
        assert attempt is not None
        assert (attempt.number, attempt.process and attempt.process.pid) == (1, os.getpid())
        assert attempt.end is not None
        assert (attempt.end.reason, attempt.end.exit_code) == ("exited", 0)

    def test_the_environment_says_what_it_ran_on(
        self, trained: RunDir, learner: Path, rows_file: Path
    ) -> None:
        known = trained.read_environment()
        facts: Any = known["facts"]
        data: Any = known["data"]
        assert list(facts["data"]) == [str(rows_file)]
        assert facts["model"] == trainer_main.model_fingerprint(learner)
        assert data["train_rows"] + data["validation_rows"] == len(ROWS)
        assert data["trained_tokens"] < data["tokens"]
        assert known["attempt"] == 1

    def test_held_out_rows_are_evaluated_and_sampled(self, undisturbed: RunDir) -> None:
        reports = [line for line in series(undisturbed) if line["kind"] == "eval"]
        assert [line["step"] for line in reports] == [0, 2, 4]
        assert [line.get("eval/exact_match") is not None for line in reports] == [False, False, True]
        assert [sample["step"] for sample in lines(undisturbed.samples_file)] == [0, 2, 4]
        assert len({sample["row"] for sample in lines(undisturbed.samples_file)}) == 1

    def test_without_held_out_rows_nothing_is_evaluated(
        self, tmp_path: Path, learner: Path, rows_file: Path
    ) -> None:
        changes = SHORT | {"data.validation": 0, "training.max_steps": 1}
        made = make_run(tmp_path, learner, rows_file, changes)
        assert run(made).code == "completed"
        assert [line["kind"] for line in series(made)] == ["train"]

    def test_the_watcher_sees_every_phase_and_report(self, made: RunDir) -> None:
        seen: list[Progress] = []
        run(made, seen.append)
        phases = list(dict.fromkeys(progress.phase for progress in seen))
        assert phases == [
            "reading the data",
            "loading the model",
            "evaluating",
            "training",
            "saving the result",
        ]
        reports = [progress.report for progress in seen]
        assert [report.step for report in reports if isinstance(report, StepReport)] == [1, 2, 3, 4]
        assert [report.step for report in reports if isinstance(report, EvalReport)] == [0, 2, 4]

    def test_data_and_model_are_left_as_they_were(
        self, tmp_path: Path, tiny_folder: Path, learner: Path
    ) -> None:
        (tmp_path / "data").mkdir()
        data = write_rows(tmp_path / "data" / "rows.jsonl")
        before = tree(learner), tree(tmp_path / "data")
        run(make_run(tmp_path / "runs", learner, data, SHORT | {"training.max_steps": 1}))
        assert (tree(learner), tree(tmp_path / "data")) == before

    def test_a_finished_run_is_left_as_it_is(
        self, undisturbed: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        again = RunDir(Path(shutil.copytree(undisturbed.path, tmp_path / undisturbed.id)))
        monkeypatch.setattr(trainer_main, "load_base", never)
        monkeypatch.setattr(trainer_main.data_pipeline, "load", never)
        outcome = run(again)
        assert (outcome.status, outcome.code, outcome.step) == (RunStatus.FINISHED, "completed", 4)
        assert series(again) == series(undisturbed)
        assert result_bytes(again) == result_bytes(undisturbed)

    def test_a_result_that_went_missing_is_made_again(self, undisturbed: RunDir, tmp_path: Path) -> None:
        again = RunDir(Path(shutil.copytree(undisturbed.path, tmp_path / undisturbed.id)))
        shutil.rmtree(again.adapter)
        assert run(again).code == "completed"
        assert result_bytes(again) == result_bytes(undisturbed)
        assert series(again) == series(undisturbed)


class TestStopping:
    @pytest.mark.parametrize(
        ("ask", "code", "exits"),
        [
            (lambda run: run.request_stop(), "stop-requested", 3),
            (lambda run: run.request_stop("paused"), "paused", 3),
            (lambda run: run.stop_file.touch(), "stop-requested", 3),
            (lambda _: os.kill(os.getpid(), signal.SIGTERM), "sigterm", 143),
            (lambda _: os.kill(os.getpid(), signal.SIGINT), "sigint", 130),
        ],
        ids=["stop", "pause", "empty file", "SIGTERM", "SIGINT"],
    )
    def test_it_saves_stops_and_goes_on_to_the_same_bits(
        self, made: RunDir, undisturbed: RunDir, ask: Callable[[RunDir], object], code: str, exits: int
    ) -> None:
        outcome = run(made, at_step(3, lambda: ask(made)))
        assert (outcome.status, outcome.code, outcome.step) == (RunStatus.STOPPED, code, 3)
        assert exit_code(outcome) == exits
        assert made.status() is RunStatus.STOPPED
        assert "step 3 of 4" in outcome.message
        assert made.id in outcome.remedy
        assert made.newest_checkpoint_step() == 3
        assert made.result_folder() is None
        assert run(made).code == "completed"
        assert result_bytes(made) == result_bytes(undisturbed)
        assert series(made) == series(undisturbed)

    def test_no_step_is_trained_twice(self, made: RunDir) -> None:
        run(made, at_step(3, made.request_stop))
        seen: list[Progress] = []
        run(made, seen.append)
        steps = [report.step for report in (told.report for told in seen) if isinstance(report, StepReport)]
        assert steps == [4]

    def test_a_stop_at_the_last_step_changes_nothing(self, made: RunDir) -> None:
        assert run(made, at_step(4, made.request_stop)).code == "completed"

    def test_the_signal_handlers_are_put_back(self, made: RunDir) -> None:
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        run(made, at_step(1, made.request_stop))
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    def test_metrics_past_the_checkpoint_are_forgotten(self, made: RunDir, undisturbed: RunDir) -> None:
        run(made, at_step(3, made.request_stop))
        shutil.rmtree(made.checkpoint(3))
        assert made.newest_checkpoint_step() == 2
        assert run(made).code == "completed"
        assert series(made) == series(undisturbed)
        assert result_bytes(made) == result_bytes(undisturbed)

    def test_a_damaged_checkpoint_is_passed_over_and_named(self, made: RunDir, undisturbed: RunDir) -> None:
        run(made, at_step(3, made.request_stop))
        (made.checkpoint(3) / "optimizer.safetensors").write_bytes(b"gone")
        assert run(made).code == "completed"
        assert "step-000003 is damaged: optimizer.safetensors" in made.train_log.read_text()
        assert result_bytes(made) == result_bytes(undisturbed)


class TestChangedInputs:
    def test_other_rows_are_refused_with_both_hashes(
        self, tmp_path: Path, learner: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = write_rows(tmp_path / "rows.jsonl")
        made = make_run(tmp_path / "runs", learner, data)
        run(made, at_step(2, made.request_stop))
        before: Any = made.read_environment()["facts"]
        write_rows(data, [*ROWS, ROWS[0]])
        monkeypatch.setattr(trainer_main, "load_base", never)
        outcome = run(made)
        assert (outcome.code, exit_code(outcome)) == ("inputs-changed", 2)
        now = trainer_main.data_pipeline.load(_config(made).data, seed=42).fingerprints[str(data)]
        assert f"{data} ({before['data'][str(data)][:12]} → {now[:12]})" in outcome.message
        assert outcome.remedy

    def test_another_model_is_refused_with_both_hashes(
        self, tmp_path: Path, learner: Path, rows_file: Path
    ) -> None:
        folder = Path(shutil.copytree(learner, tmp_path / "model"))
        made = make_run(tmp_path / "runs", folder, rows_file)
        before = trainer_main.model_fingerprint(folder)
        run(made, at_step(2, made.request_stop))
        settings = json.loads((folder / "generation_config.json").read_text())
        (folder / "generation_config.json").write_text(json.dumps(settings | {"temperature": 0.5}))
        outcome = run(made)
        assert outcome.code == "inputs-changed"
        assert f"{before[:12]} → {trainer_main.model_fingerprint(folder)[:12]}" in outcome.message

    def test_the_originals_put_back_it_goes_on(
        self, tmp_path: Path, learner: Path, undisturbed: RunDir
    ) -> None:
        data = write_rows(tmp_path / "rows.jsonl")
        made = make_run(tmp_path / "runs", learner, data)
        run(made, at_step(2, made.request_stop))
        write_rows(data, ROWS[1:])
        assert run(made).code == "inputs-changed"
        write_rows(data)
        assert run(made).code == "completed"
        assert series(made) == series(undisturbed)


def _config(made: RunDir) -> Any:
    return trainer_main.parse_config(trainer_main.parse_yaml(made.read_config_text(), where=str(made.config)))


class TestFailing:
    @pytest.mark.parametrize(
        ("rows", "changes", "code", "said"),
        [
            ([], {}, "empty-file", "rows.jsonl is empty"),
            ([{"prompt": "x"}, {"prompt": "y", "completion": 3}], {}, "rejected-rows", "rows.jsonl:"),
            ([*ROWS, {"prompt": "x", "completion": None}], {}, "rejected-rows", "rows.jsonl:19"),
            ([*ROWS, ENDLESS_PROMPT], {}, "too-long", "rows.jsonl:19"),
            ([*ROWS, ENDLESS_PROMPT], {"data.max_length": 4096}, "too-long", "this model can look at 512"),
            (ROWS[:1] * 5, {}, "cannot-split", "same prompt"),
            (ROWS, {"data.train": "nowhere.jsonl"}, "file-not-found", "nowhere.jsonl"),
            (ROWS, {"model.model_name_or_path": "no/such/folder/here"}, "model-not-found", "no/such/folder"),
            (ROWS, {"tuning.lora_target_modules": ["nothing"]}, "no-target-modules", "nothing"),
        ],
    )
    def test_what_cannot_be_used_is_named(
        self,
        tmp_path: Path,
        learner: Path,
        rows: list[dict[str, Any]],
        changes: dict[str, Any],
        code: str,
        said: str,
    ) -> None:
        data = write_rows(tmp_path / "rows.jsonl", rows)
        made = make_run(tmp_path / "runs", learner, data, SHORT | changes)
        outcome = run(made)
        assert (outcome.status, outcome.code, exit_code(outcome)) == (RunStatus.FAILED, code, 2)
        assert said in outcome.message
        assert outcome.remedy
        assert made.read_outcome() == Outcome(
            RunStatus.FAILED, code, outcome.message, outcome.remedy, attempt=1
        )
        assert made.status() is RunStatus.FAILED
        assert "Traceback" in made.train_log.read_text()
        assert not made.checkpoints.exists()

    @pytest.mark.parametrize("value", ["nan", "inf"])
    def test_a_loss_that_is_no_number_ends_it_before_the_update(
        self, made: RunDir, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        from backend.core import training

        real = training.step_gradients
        losses = iter([None, None, float(value)])

        def poisoned(*args: Any, **options: Any) -> Any:
            loss, gradients = real(*args, **options)
            return next(losses) or loss, gradients

        monkeypatch.setattr(training, "step_gradients", poisoned)
        outcome = run(made)
        assert (outcome.code, exit_code(outcome)) == ("non-finite-loss", 1)
        assert f"The loss became {value} at step 3" in outcome.message
        assert "learning_rate" in outcome.remedy
        assert made.newest_checkpoint_step() == 2
        monkeypatch.undo()
        assert run(made).code == "completed"

    def test_a_full_disk(self, made: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
        from backend.core import checkpoint

        monkeypatch.setattr(checkpoint, "free_bytes", lambda _: 10)
        outcome = run(made)
        assert (outcome.code, exit_code(outcome)) == ("disk-full", 1)
        assert "10 are free" in outcome.message
        assert [path.name for path in made.path.rglob("*.tmp")] == []
        monkeypatch.undo()
        assert run(made).code == "completed"

    @pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "flight.jsonl"])
    def test_a_disk_that_fills_up_while_recording(
        self, made: RunDir, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        from backend.utils import jsonl_utils

        real = jsonl_utils.os.write

        def full(descriptor: int, data: bytes) -> int:
            target = Path(f"/proc/self/fd/{descriptor}").readlink().name
            return FailingFileSystem(1)._count(Path(name)) or 0 if target == name else real(descriptor, data)

        monkeypatch.setattr(jsonl_utils.os, "write", full)
        outcome = run(made)
        monkeypatch.undo()
        assert (outcome.code, exit_code(outcome)) == ("disk-full", 1)
        assert "Make room" in outcome.remedy
        assert run(made).code == "completed"

    def test_whatever_else_happens_is_written_down_whole(
        self, made: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("the sky fell")

        monkeypatch.setattr(trainer_main, "train_steps", broken)
        assert main([str(made.path)]) == 1
        outcome = made.read_outcome()
        assert outcome is not None
        assert outcome.code == "internal-error"
        assert "ZeroDivisionError: the sky fell" in outcome.message
        assert str(made.train_log) in outcome.remedy
        log = made.train_log.read_text()
        assert "Traceback" in log
        assert "in broken" in log
        screen = capsys.readouterr().err
        assert screen.strip() == f"{outcome.message} {outcome.remedy}"

    def test_only_one_may_work_on_a_run(self, made: RunDir) -> None:
        with made.lock(), pytest.raises(RunError) as caught:
            run(made)
        assert caught.value.code == "already-running"
        assert made.latest_attempt_number() == 0

    def test_the_log_goes_to_the_run_and_nowhere_else_afterwards(
        self, made: RunDir, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        logger = logging.getLogger("tunesmith")
        monkeypatch.setattr(logger, "propagate", True)
        before = list(logger.handlers)
        run(made, at_step(1, made.request_stop))
        assert (list(logger.handlers), logger.propagate) == (before, True)


@pytest.mark.parametrize(
    ("status", "code", "exits"),
    [
        (RunStatus.FINISHED, "completed", 0),
        (RunStatus.STOPPED, "stop-requested", 3),
        (RunStatus.STOPPED, "paused", 3),
        (RunStatus.STOPPED, "sigint", 130),
        (RunStatus.STOPPED, "sigterm", 143),
        (RunStatus.FAILED, "non-finite-loss", 1),
        (RunStatus.FAILED, "non-finite-gradient", 1),
        (RunStatus.FAILED, "out-of-memory", 1),
        (RunStatus.FAILED, "disk-full", 1),
        (RunStatus.FAILED, "cannot-save", 1),
        (RunStatus.FAILED, "internal-error", 1),
        (RunStatus.FAILED, "no-rows", 2),
        (RunStatus.FAILED, "bad-config", 2),
    ],
)
def test_the_exit_code_says_how_it_ended(status: RunStatus, code: str, exits: int) -> None:
    assert exit_code(Outcome(status, code, "…")) == exits


class TestTheDoor:
    @pytest.mark.parametrize(
        ("arguments", "exits"), [([], 2), (["a", "b"], 2), (["--fast"], 2), (["--help"], 0), (["-h"], 0)]
    )
    def test_it_wants_one_folder(
        self, arguments: list[str], exits: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments) == exits
        assert capsys.readouterr().err == "Usage: python -m backend.trainer_main RUN_FOLDER\n"

    @pytest.mark.parametrize("name", ["nowhere", "."])
    def test_it_wants_a_run(self, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(tmp_path / name)]) == 2
        assert "is no run folder" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []


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
CODE = {
    "unforeseen": "trainer.train_steps = None",
    "no room": "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))",
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
        refuse = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
        end = trainers.start(made, code=refuse).wait()
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


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNESMITH_ATTEMPT", raising=False)
