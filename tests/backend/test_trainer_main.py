"""One run folder in, a result and an outcome out: backend/trainer_main.py."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch

from backend import trainer_main
from backend.core.encoding import dataset as encoded_rows
from backend.core.encoding.dataset import EncodedRows
from backend.core.model_folder import model_fingerprint
from backend.core.model_loader import load_dense
from backend.core.quantized import Quantization
from backend.errors import InferenceError, RunError, TrainingError
from backend.inferencer import Inferencer
from backend.run.environment import RowsRead
from backend.run.folder import RunDir
from backend.run.outcomes import exit_code
from backend.run.reports import EvalReport, Outcome, Progress, RunStatus, StepReport
from backend.trainer_main import main, run
from backend.training.checkpoint import read_checkpoint
from backend.training.distributed import StoppedWaitingError, World, joined
from tests.fakes import FailingFileSystem
from tests.runs import (
    ROWS,
    SHORT,
    lines,
    make_run,
    result_bytes,
    series,
    tree,
    write_rows,
)

DATED = (
    "{{ '<|im_start|>system\nToday is ' + strftime_now('%-d %b') + '<|im_end|>\n' }}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PACKED = SHORT | {"model.load_in_4bit": True, "model.use_bnb_nested_quant": True}
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


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, learner: Path, rows_file: Path) -> RunDir:
    """A run of four steps over a base in 4 bits, carried out in one go."""
    pytest.importorskip("bitsandbytes")
    made = make_run(tmp_path_factory.mktemp("packed"), learner, rows_file, PACKED)
    assert run(made).message == "Trained 4 steps."
    return made


def at_step(step: int, act: Callable[[], object]) -> Callable[[Progress], None]:
    """A watcher that acts once, right after a training step."""

    def watch(progress: Progress) -> None:
        steps = {report.step for report in [progress.report] if isinstance(report, StepReport)}
        _ = [act() for reached in steps if reached == step]

    return watch


def on_day(day: int) -> type[datetime]:
    """The class datetime on a day of May."""

    class Then(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime(2026, 5, day, 12, tzinfo=tz or UTC)

    return Then


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
        assert known.facts is not None
        assert list(known.facts.data) == [str(rows_file)]
        assert known.facts.model == model_fingerprint(learner)
        assert known.data.train_rows + known.data.validation_rows == len(ROWS)
        assert (known.data.trained_tokens or 0) < (known.data.tokens or 0)
        assert known.attempt == 1

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

    def test_data_model_and_process_are_left_as_they_were(
        self, tmp_path: Path, tiny_folder: Path, learner: Path
    ) -> None:
        (tmp_path / "data").mkdir()
        data = write_rows(tmp_path / "data" / "rows.jsonl")
        before = tree(learner), tree(tmp_path / "data"), torch.get_rng_state().tolist()
        run(make_run(tmp_path / "runs", learner, data, SHORT | {"training.max_steps": 1}))
        assert (tree(learner), tree(tmp_path / "data"), torch.get_rng_state().tolist()) == before

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


class TestLargeSets:
    """Training begins before every row is tokenised."""

    @pytest.fixture(autouse=True)
    def _small_is_large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(encoded_rows, "BLOCK_ROWS", 6)
        monkeypatch.setattr(encoded_rows, "LARGE_ROWS", 12)

    def test_the_same_bits_and_tokens_counted_in_the_end(self, made: RunDir, undisturbed: RunDir) -> None:
        early: list[RowsRead] = []
        run(made, at_step(1, lambda: early.append(made.read_environment().data)))
        assert early[0].tokens is None
        assert made.read_environment().data == undisturbed.read_environment().data
        assert result_bytes(made) == result_bytes(undisturbed)
        assert series(made) == series(undisturbed)

    def test_a_row_that_cannot_be_used_ends_the_run_in_its_turn(self, tmp_path: Path, learner: Path) -> None:
        sound = [{"input_ids": [5, 6, 7 + n], "labels": [5, 6, 7 + n]} for n in range(18)]
        nothing = {"input_ids": [5, 6, 7], "labels": [-100, -100, -100]}
        rows = write_rows(tmp_path / "rows.jsonl", [*sound, nothing])
        changes = SHORT | {"data.accept": ["end-not-trained", "mask-wrong"]}
        changes |= {"data.validation": 0, "training.max_steps": 90, "training.save_steps": 0}
        made = make_run(tmp_path / "runs", learner, rows, changes)
        outcome = run(made)
        assert (outcome.status, outcome.code, exit_code(outcome)) == (RunStatus.FAILED, "nothing-trained", 2)
        assert "rows.jsonl:19 has no token to learn" in outcome.message
        assert 0 < len(series(made)) <= 3


class TestStopping:
    @pytest.mark.parametrize(
        ("ask", "code", "exits"),
        [
            (lambda run: run.request_stop(), "stop-requested", 3),
            (lambda run: run.request_stop("paused"), "paused", 3),
            (lambda run: run.stop_file.touch(), "stop-requested", 3),
            (lambda run: (run.request_stop("paused"), os.kill(os.getpid(), signal.SIGTERM)), "paused", 3),
            (lambda _: os.kill(os.getpid(), signal.SIGTERM), "sigterm", 143),
            (lambda _: os.kill(os.getpid(), signal.SIGINT), "sigint", 130),
        ],
        ids=["stop", "pause", "empty file", "pause of a slow step", "SIGTERM", "SIGINT"],
    )
    def test_it_saves_stops_and_goes_on_to_the_same_bits(
        self, made: RunDir, undisturbed: RunDir, ask: Callable[[RunDir], object], code: str, exits: int
    ) -> None:
        outcome = run(made, at_step(3, lambda: ask(made)))
        assert (outcome.status, outcome.code, outcome.step) == (RunStatus.STOPPED, code, 3)
        assert exit_code(outcome) == exits
        assert made.status() is RunStatus.STOPPED
        assert "step 3 of 4" in outcome.message
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
        begun = [line for line in made.train_log.read_text().splitlines() if "Training from step" in line]
        assert [line.partition("from step ")[2][:6] for line in begun] == ["0 to 4", "3 to 4"]

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
    def test_the_originals_put_back_it_goes_on(
        self, tmp_path: Path, learner: Path, undisturbed: RunDir
    ) -> None:
        data = write_rows(tmp_path / "rows.jsonl")
        made = make_run(tmp_path / "runs", learner, data)
        run(made, at_step(2, made.request_stop))
        write_rows(data, ROWS[1:])
        outcome = run(made)
        assert (outcome.code, exit_code(outcome)) == ("inputs-changed", 2)
        assert f"{data} (" in outcome.message
        write_rows(data)
        assert run(made).code == "completed"
        assert series(made) == series(undisturbed)

    def test_a_template_that_was_edited_is_a_changed_input(
        self, made: RunDir, tmp_path: Path, learner: Path, rows_file: Path
    ) -> None:
        """Also where whoever made the run left the template in its file."""
        file = tmp_path / "my.jinja"
        file.write_text(DATED.replace("Today", "Date"))
        made = make_run(tmp_path, learner, rows_file, SHORT | {"model.chat_template": str(file)})
        run(made, at_step(2, made.request_stop))
        content = file.read_text()
        file.write_text(content.replace("Date", "Day"))
        outcome = run(made)
        assert (outcome.code, exit_code(outcome)) == ("inputs-changed", 2)
        assert "the chat template (" in outcome.message
        file.write_text(content)
        assert run(made).code == "completed"

    def test_a_template_that_prints_the_date_prints_that_of_the_first_attempt(
        self, tmp_path: Path, learner: Path, rows_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        changes = SHORT | {"model.chat_template": DATED}
        whole, stopped = (make_run(tmp_path / name, learner, rows_file, changes) for name in ("a", "b"))
        monkeypatch.setattr(trainer_main, "datetime", on_day(1))
        assert run(whole).code == "completed"
        run(stopped, at_step(3, stopped.request_stop))
        monkeypatch.setattr(trainer_main, "datetime", on_day(2))
        assert run(stopped).code == "completed"
        assert result_bytes(stopped) == result_bytes(whole)
        assert series(stopped) == series(whole)
        for base in (False, True):
            with Inferencer(stopped, base=base) as model:
                assert "Today is 1 May" in model.tokenizer.decode(model.render("test input"))


class TestAnotherMachine:
    """A resume on another kind of processor or version goes on, and says and keeps that the bits may be others."""

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"processor": "Another CPU, AVX512"}, "the processor (Another CPU, AVX512 → "),
            ({"versions": {"torch": "1.0"}}, "torch (1.0 → "),
        ],
    )
    def test_it_is_told_kept_and_goes_on(self, made: RunDir, changes: dict[str, Any], said: str) -> None:
        run(made, at_step(3, made.request_stop))
        made.write_environment(replace(made.read_environment(), **changes))
        seen: list[Progress] = []
        assert run(made, seen.append).code == "completed"
        (note,) = [progress.note for progress in seen if progress.note]
        (change,) = made.read_environment().changes
        assert said in note
        assert "From step 3 on" in note
        assert note in made.train_log.read_text()
        assert (change.attempt, change.step, change.what.startswith(said)) == (2, 3, True)

    def test_on_the_same_machine_nothing_is_said(self, made: RunDir) -> None:
        seen: list[Progress] = []
        run(made, at_step(3, made.request_stop))
        run(made, seen.append)
        assert [progress.note for progress in seen if progress.note] == []
        assert made.read_environment().changes == ()

    def test_what_was_told_once_stays_known(self, made: RunDir) -> None:
        for step in (1, 2):
            run(made, at_step(step, made.request_stop))
            made.write_environment(replace(made.read_environment(), processor=f"Another CPU {step}"))
        run(made)
        assert [change.step for change in made.read_environment().changes] == [1, 2]


class TestStrayProcesses:
    """RANK and WORLD_SIZE of somebody else's job give an error before anything is touched."""

    @pytest.mark.parametrize(
        ("environ", "code"),
        [
            ({"RANK": "0", "WORLD_SIZE": "2"}, "other-process-count"),
            ({"RANK": "1", "WORLD_SIZE": "2"}, "other-process-count"),
            ({"WORLD_SIZE": "8"}, "other-process-count"),
            ({"RANK": "3"}, "bad-rank"),
            ({"RANK": "many", "WORLD_SIZE": "2"}, "bad-rank"),
        ],
    )
    def test_they_are_refused(
        self, made: RunDir, environ: dict[str, str], code: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = tree(made.path)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(RunError) as caught:
            run(made)
        assert caught.value.code == code
        assert "unset" in caught.value.remedy.lower()
        assert tree(made.path) == before

    def test_a_stop_while_waiting_for_the_others_is_an_outcome(
        self, made: RunDir, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            trainer_main, "joined", create_autospec(joined, side_effect=StoppedWaitingError("sigterm"))
        )
        outcome = run(made)
        assert (outcome.status, outcome.code, exit_code(outcome)) == (RunStatus.STOPPED, "sigterm", 143)
        assert made.status() is RunStatus.STOPPED


class TestFailing:
    @pytest.mark.parametrize(
        ("rows", "changes", "code", "said"),
        [
            ([], {}, "empty-file", "rows.jsonl is empty"),
            ([{"prompt": "x"}, {"prompt": "y", "completion": 3}], {}, "rejected-rows", "rows.jsonl:"),
            ([*ROWS, {"prompt": "x", "completion": None}], {}, "rejected-rows", "rows.jsonl:19"),
            ([*ROWS, ENDLESS_PROMPT], {}, "too-long", "rows.jsonl:19"),
            ([*ROWS, ENDLESS_PROMPT], {"data.max_length": 4096}, "too-long", "this model can look at 512"),
            (
                [{"input_ids": [5, 6, 7 + n]} for n in range(995, 0, -99)],
                {"data.accept": ["contamination", "end-not-trained"]},
                "unknown-token",
                "knows those below",
            ),
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

    def test_held_out_rows_must_fit_the_model_as_well(
        self, tmp_path: Path, learner: Path, rows_file: Path
    ) -> None:
        held = write_rows(tmp_path / "held.jsonl", [ENDLESS_PROMPT])
        changes = SHORT | {"data.validation": str(held), "data.max_length": 4096}
        outcome = run(make_run(tmp_path / "runs", learner, rows_file, changes))
        assert (outcome.code, outcome.message.partition(" ")[0]) == ("too-long", "held.jsonl:1")

    @pytest.mark.parametrize("value", ["nan", "inf"])
    def test_a_loss_that_is_no_number_ends_it_before_the_update(
        self, made: RunDir, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        from backend.training import loop as training

        real = training.step_gradients
        losses = iter([None, None, float(value)])

        def poisoned(*args: Any, **options: Any) -> Any:
            found = real(*args, **options)
            return replace(found, loss=next(losses) or found.loss)

        monkeypatch.setattr(training, "step_gradients", poisoned)
        outcome = run(made)
        assert (outcome.code, exit_code(outcome)) == ("non-finite-loss", 1)
        assert f"The loss became {value} at step 3" in outcome.message
        assert "learning_rate" in outcome.remedy
        assert made.newest_checkpoint_step() == 2
        monkeypatch.undo()
        assert run(made).code == "completed"

    def test_memory_that_runs_out_makes_micro_batches_smaller_and_is_noted(
        self, tmp_path: Path, learner: Path, rows_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from backend.training import loop as training

        changes = SHORT | {"training.per_device_train_batch_size": 8}
        made = make_run(tmp_path / "runs", learner, rows_file, changes)
        real, notes = training.step_gradients, list[str]()

        def narrow(*args: Any, **options: Any) -> Any:
            rows = max(len(batch.rows) for batch in args[2])
            if options["step"] >= 3 and rows > 1:
                raise TrainingError("Memory ran out.", remedy="", code="out-of-memory")
            return real(*args, **options)

        monkeypatch.setattr(training, "step_gradients", narrow)
        outcome = run(made, lambda progress: notes.append(progress.note))
        (change,) = made.read_environment().changes
        (note,) = filter(None, notes)

        assert outcome.code == "completed"
        assert (change.attempt, change.step) == (1, 3)
        assert change.what.startswith("memory ran out: micro-batches of up to ")
        assert "Memory ran out at step 3" in note
        assert note in made.train_log.read_text("utf-8")
        assert read_checkpoint(made.checkpoint(3)).fitting.keys() == {1024}

    def test_a_full_disk(self, made: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
        from backend.training import checkpoint

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
        before = list(logger.handlers), logger.level
        run(made, at_step(1, made.request_stop))
        assert ((list(logger.handlers), logger.level), logger.propagate) == (before, True)


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


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNESMITH_ATTEMPT", raising=False)


@pytest.mark.parametrize(
    ("told", "status", "steps"),
    [
        ([None, None, None], RunStatus.FINISHED, 3),
        ([None, trainer_main.FINISHED], RunStatus.FINISHED, 2),
        ([None, "stop-requested"], RunStatus.STOPPED, 2),
    ],
    ids=["every step", "stopped early", "stopped by a person"],
)
def test_a_follower_ends_when_and_as_the_first_one_says(
    told: list[str | None], status: RunStatus, steps: int
) -> None:
    world = create_autospec(World, instance=True)
    world.broadcast.side_effect = told
    rows = create_autospec(EncodedRows, instance=True)
    reports = iter([create_autospec(StepReport, instance=True, step=n, total_steps=3) for n in (1, 2, 3)])
    assert trainer_main._follow(reports, rows, world).status is status
    assert rows.tokenise_next.call_count == steps
    assert len(list(reports)) == 3 - steps


class TestPackedBases:
    """Runs over a base in 4 bits: carried out, resumed and asked like any other."""

    def test_the_version_of_bitsandbytes_is_kept(self, packed: RunDir, undisturbed: RunDir) -> None:
        assert "bitsandbytes" in packed.read_environment().versions
        assert "bitsandbytes" not in undisturbed.read_environment().versions

    def test_a_resumed_run_ends_with_the_same_bytes(
        self, packed: RunDir, tmp_path: Path, learner: Path, rows_file: Path
    ) -> None:
        again = make_run(tmp_path, learner, rows_file, PACKED)
        assert run(again, at_step(3, again.request_stop)).status is RunStatus.STOPPED
        assert run(again).message == "Trained 4 steps."
        assert result_bytes(again) == result_bytes(packed)

    def test_it_learns_something_else_than_over_the_plain_base(
        self, packed: RunDir, undisturbed: RunDir
    ) -> None:
        assert result_bytes(packed) != result_bytes(undisturbed)

    def test_it_is_asked_over_the_values_it_was_trained_over(self, packed: RunDir, learner: Path) -> None:
        stored = Quantization("nf4", nested=True, dtype=torch.float32)
        name = "model.layers.0.mlp.up_proj.weight"
        with Inferencer(packed, base=True) as rounded, Inferencer(learner) as plain:
            base = rounded.model.get_parameter(name)
            assert torch.equal(
                base, load_dense(learner, dtype=torch.float32, quantization=stored).get_parameter(name)
            )
            assert not torch.equal(base, plain.model.get_parameter(name))
            with pytest.raises(InferenceError, match="another base model"):
                plain.use(packed)
