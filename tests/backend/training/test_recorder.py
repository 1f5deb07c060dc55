"""The files that training writes into the run folder: backend/training/recorder.py."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from backend.core.model_loader import load_base
from backend.errors import TrainingError
from backend.run.config import RunConfig
from backend.run.environment import Facts
from backend.run.folder import RunDir
from backend.run.metrics import metrics_scalars
from backend.run.reports import EvalReport, Sample, StepReport
from backend.run.settings import parse_config
from backend.training.checkpoint import read_checkpoint
from backend.training.forward import choose_forward
from backend.training.loop import TrainState
from backend.training.recorder import MetricsWriter, Recorder
from backend.training.tuning import make_trainable
from backend.utils.jsonl_utils import JsonlWriter, read_jsonl_tail
from tests.logs import Logged
from tests.runs import SHORT, lines, settings
from tests.tiny import tiny_tokenizer

STEP = StepReport(
    step=1,
    total_steps=10,
    epoch=0.1,
    loss=2.0,
    grad_norm=3.0,
    learning_rate=0.1,
    tokens=40,
    trained_tokens=20,
    seconds=0.5,
    tokens_seen=40,
    rows=("rows.jsonl:1", "rows.jsonl:2"),
)
SAMPLES = (Sample("rows.jsonl:3", "food pork", "meat", " meat\n"), Sample("rows.jsonl:4", "x", "y", "z"))
EVALUATION = EvalReport(step=0, epoch=0.0, loss=5.0, trained_tokens=8, rows=2, seconds=0.1, samples=SAMPLES)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "runs", "tiny", "seed: 1")


@pytest.fixture(scope="module")
def state(learner: Path) -> TrainState:
    config = _config({})
    forward = choose_forward(make_trainable(load_base(learner), config.tuning, seed=0), longest_row=64)
    return TrainState.start(forward, config.training)


@pytest.fixture(autouse=True)
def _from_the_start(state: TrainState) -> Iterator[None]:
    yield
    state.step = 0


def _config(changes: dict[str, Any]) -> RunConfig:
    return parse_config(settings(Path("model"), Path("rows.jsonl"), SHORT | changes))


def recorder(run: RunDir, state: TrainState, notes: dict[str, Any] | None = None, **changes: Any) -> Recorder:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return Recorder(run, _config(dotted), state, tiny_tokenizer(), Facts({}, "abc"), notes or {})


class TestSteps:
    def test_one_line_per_step(self, run: RunDir, state: TrainState) -> None:
        with recorder(run, state) as record:
            record.step(STEP)
            assert lines(run.metrics_file)[0]["train/loss"] == 2.0
            record.step(replace(STEP, step=2))
        assert [line["step"] for line in lines(run.metrics_file)] == [1, 2]

    @pytest.mark.parametrize(("every", "kept"), [(1, [*range(1, 11)]), (4, [1, 4, 8, 10]), (100, [1, 10])])
    def test_a_line_every_so_many_steps_and_the_first_and_last(
        self, run: RunDir, state: TrainState, every: int, kept: list[int]
    ) -> None:
        with recorder(run, state, logging__logging_steps=every) as record:
            _ = [record.step(replace(STEP, step=step)) for step in range(1, 11)]
        assert [line["step"] for line in lines(run.metrics_file)] == kept
        assert [line["step"] for line in lines(run.flight_file)] == [*range(1, 11)]

    def test_the_flight_record_names_rows_and_memory(self, run: RunDir, state: TrainState) -> None:
        with recorder(run, state) as record:
            record.step(STEP)
        (line,) = lines(run.flight_file)
        assert line.pop("memory_bytes") > 2**20
        assert line == {
            "step": 1,
            "loss": 2.0,
            "grad_norm": 3.0,
            "learning_rate": 0.1,
            "rows": ["rows.jsonl:1", "rows.jsonl:2"],
        }

    def test_the_flight_record_ends_with_the_step_that_failed(self, run: RunDir, state: TrainState) -> None:
        record = {"step": 2, "loss": "nan", "rows": ["rows.jsonl:7"]}
        failure = TrainingError("The loss became nan.", remedy="Look.", code="x", step_record=record)
        with pytest.raises(TrainingError):
            _fail_after_a_step(recorder(run, state), failure)
        first, second = lines(run.flight_file)
        assert first["step"] == 1
        assert second.pop("memory_bytes") > 2**20
        assert second == record


def _fail_after_a_step(recorder: Recorder, failure: TrainingError) -> None:
    with recorder:
        recorder.step(STEP)
        raise failure


class TestEvaluations:
    def test_metrics_and_samples(self, run: RunDir, state: TrainState) -> None:
        with recorder(run, state) as record:
            record.evaluation(EVALUATION)
        assert [line["eval/loss"] for line in lines(run.metrics_file)] == [5.0]
        first, second = lines(run.samples_file)
        assert first == {
            "step": 0,
            "row": "rows.jsonl:3",
            "prompt": "food pork",
            "expected": "meat",
            "generated": " meat\n",
            "exact_match": True,
        }
        assert second["exact_match"] is False

    def test_the_best_is_the_lowest_loss_of_a_trained_model(self, run: RunDir, state: TrainState) -> None:
        series = [(0, 1.0), (1, 4.0), (2, 5.0), (3, 4.0), (4, 3.0)]
        with recorder(run, state) as record:
            best = [record.evaluation(replace(EVALUATION, step=step, loss=loss)) for step, loss in series]
        assert best == [False, True, False, False, True]

    def test_a_loss_that_is_no_number_is_never_the_best(self, run: RunDir, state: TrainState) -> None:
        series = [(1, float("nan")), (2, 5.0), (3, float("nan"))]
        with recorder(run, state) as record:
            best = [record.evaluation(replace(EVALUATION, step=step, loss=loss)) for step, loss in series]
        assert best == [False, True, False]

    def test_the_best_so_far_is_known_after_a_resume(self, run: RunDir, state: TrainState) -> None:
        with recorder(run, state, {"best_loss": 3.0, "best_step": 2}) as record:
            assert not record.evaluation(replace(EVALUATION, step=5, loss=3.5))
            assert record.evaluation(replace(EVALUATION, step=6, loss=2.5))

    @pytest.mark.parametrize(
        ("patience", "expected_stops", "result"),
        [(None, [False] * 6, None), (2, [False, False, False, True, False, False], 4)],
    )
    def test_early_stopping_after_patience_evaluations_without_a_better_one(
        self,
        run: RunDir,
        state: TrainState,
        patience: int | None,
        expected_stops: list[bool],
        result: int | None,
    ) -> None:
        series = [(0, 1.0), (1, 4.0), (2, 4.0), (3, float("nan")), (4, 3.0), (5, 3.5)]
        with recorder(run, state, evaluation__early_stopping_patience=patience) as record:
            stops = []
            for step, loss in series:
                record.evaluation(replace(EVALUATION, step=step, loss=loss))
                stops.append(record.should_stop_early)
        assert (stops, record.result_step) == (expected_stops, result)

    def test_early_stopping_goes_on_counting_after_a_resume(self, run: RunDir, state: TrainState) -> None:
        notes = {"best_loss": 3.0, "best_step": 2, "waited": 1}
        with recorder(run, state, notes, evaluation__early_stopping_patience=2) as record:
            assert not record.should_stop_early
            record.evaluation(replace(EVALUATION, step=5, loss=3.5))
            assert record.should_stop_early

    def test_the_result_is_the_best_model_or_the_last(self, run: RunDir, state: TrainState) -> None:
        notes = {"best_loss": 3.0, "best_step": 2}
        with recorder(run, state, notes, evaluation__load_best_model_at_end=True) as best:
            assert best.result_step == 2
        with recorder(run, state, notes) as last:
            assert last.result_step is None


class TestCheckpoints:
    def test_the_newest_and_the_best_are_kept(self, run: RunDir, state: TrainState) -> None:
        with recorder(run, state, training__save_total_limit=2) as record:
            for step, loss in enumerate([5.0, 2.0, 4.0, 3.0, 3.5], start=1):
                state.step = step
                record.evaluation(replace(EVALUATION, step=step, loss=loss))
                record.checkpoint(done=step == 5)
        assert sorted(path.name for path in run.checkpoints.iterdir()) == [
            "step-000002",
            "step-000004",
            "step-000005",
        ]
        assert read_checkpoint(run.checkpoint(4)).notes["done"] is False
        assert dict(read_checkpoint(run.checkpoint(5)).notes) == {
            "facts": asdict(Facts({}, "abc")),
            "best_loss": 2.0,
            "best_step": 2,
            "waited": 3,
            "done": True,
        }


class TestTensorBoard:
    def test_the_same_numbers_as_events(self, run: RunDir, state: TrainState) -> None:
        with recorder(run, state, logging__tensorboard=True) as record:
            record.step(STEP)
            record.step(replace(STEP, step=2, loss=1.5))
            record.evaluation(EVALUATION)
        events = EventAccumulator(str(run.tensorboard)).Reload()
        assert [(point.step, point.value) for point in events.Scalars("train/loss")] == [(1, 2.0), (2, 1.5)]
        assert [(point.step, point.value) for point in events.Scalars("eval/loss")] == [(0, 5.0)]

    def test_what_an_earlier_attempt_wrote_past_the_checkpoint_is_gone(
        self, run: RunDir, state: TrainState
    ) -> None:
        with recorder(run, state, logging__tensorboard=True) as record:
            _ = [record.step(replace(STEP, step=step)) for step in (1, 2, 3)]
        state.step = 1
        with recorder(run, state, logging__tensorboard=True) as record:
            record.step(replace(STEP, step=2, loss=7.0))
        events = EventAccumulator(str(run.tensorboard)).Reload()
        assert [(point.step, point.value) for point in events.Scalars("train/loss")] == [(1, 2.0), (2, 7.0)]

    def test_no_event_files_unless_asked_for(self, run: RunDir, state: TrainState) -> None:
        with recorder(run, state, logging__tensorboard=False) as record:
            record.step(STEP)
        assert not run.tensorboard.exists()


def test_closing_closes_every_file(run: RunDir, state: TrainState) -> None:
    record = recorder(run, state)
    record.close()
    record.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        record.step(STEP)
    assert lines(run.metrics_file) == []


@pytest.mark.parametrize(("template", "kept"), [("plain", True), (None, False)])
def test_a_template_of_its_own_goes_into_the_checkpoint(
    run: RunDir, state: TrainState, template: str | None, kept: bool
) -> None:
    state.step = 1
    with recorder(run, state, model__chat_template=template) as record:
        record.checkpoint()
    assert (run.checkpoint(1) / "tokenizer.json").exists() is kept
    assert (run.checkpoint(1) / "chat_template.jinja").exists() is kept
    assert read_checkpoint(run.checkpoint(1)).step == 1


# --- the line and the event file hold the same numbers, and a resumed run leaves no second curve

TRAIN_TAGS = {
    "train/loss", "train/grad_norm", "train/learning_rate", "train/tokens_per_second",
    "train/tokens_seen", "train/trained_tokens", "train/epoch",
}  # fmt: skip
EVAL_TAGS = {"eval/loss", "eval/trained_tokens", "eval/exact_match"}


def _step(step: int, *, loss: float = 1.5) -> StepReport:
    return StepReport(step, 10, step / 5, loss, 0.7, 1.25e-6, 1000, 400, 0.5, 1000 * step, ("row 1", "row 2"))


def _evaluation(step: int, *, exact_match: float | None = 0.25) -> EvalReport:
    return EvalReport(step, step / 5, 1.125, 77, 8, 0.5, exact_match=exact_match, scored_rows=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder with a place for event files."""
    (tmp_path / "events").mkdir()
    return tmp_path


def _write(folder: Path, *reports: StepReport | EvalReport, after_step: int = 0) -> None:
    lines = JsonlWriter(folder / "metrics.jsonl")
    with MetricsWriter(lines, folder / "events", after_step=after_step) as writer:
        for report in reports:
            writer.write(report)


def _records(folder: Path) -> list[dict[str, object]]:
    return read_jsonl_tail(folder / "metrics.jsonl").records


def _events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Points by tag, read as TensorBoard itself reads them."""
    events = EventAccumulator(str(folder / "events"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_training_step_is_one_line_and_one_point_per_tag(folder: Path) -> None:
    _write(folder, _step(3))

    (record,) = _records(folder)
    assert {tag for tag in record if "/" in tag} == TRAIN_TAGS == set(_events(folder))
    assert (record["kind"], record["step"], record["total_steps"]) == ("train", 3, 10)


def test_an_evaluation_is_one_line_and_one_point_per_tag(folder: Path) -> None:
    _write(folder, _evaluation(3))

    (record,) = _records(folder)
    assert {tag for tag in record if "/" in tag} == EVAL_TAGS == set(_events(folder))
    assert (record["kind"], record["rows"], record["scored_rows"]) == ("eval", 8, 8)


def test_both_places_hold_the_same_numbers(folder: Path) -> None:
    _write(folder, _step(1, loss=2.5), _evaluation(1), _step(2, loss=1.25))

    records, events = _records(folder), _events(folder)

    for tag in TRAIN_TAGS | EVAL_TAGS:
        lines = [(record["step"], record[tag]) for record in records if tag in record]
        assert events[tag] == [(step, pytest.approx(value, rel=1e-6)) for step, value in lines]
    assert events["train/loss"] == [(1, 2.5), (2, 1.25)]


def test_every_number_is_written_under_its_own_tag(folder: Path) -> None:
    _write(folder, _step(4))

    (record,) = _records(folder)
    assert {tag: record[tag] for tag in TRAIN_TAGS} == metrics_scalars(_step(4))
    assert record["train/learning_rate"] == 1.25e-6
    assert record["train/tokens_per_second"] == 2000.0


def test_a_score_that_means_nothing_is_no_point(folder: Path) -> None:
    _write(folder, _evaluation(1, exact_match=None))

    assert "eval/exact_match" not in _events(folder)
    assert "eval/exact_match" not in _records(folder)[0]


def test_a_line_and_a_point_are_there_at_once(folder: Path) -> None:
    writer = MetricsWriter(JsonlWriter(folder / "metrics.jsonl"), folder / "events")

    writer.write(_step(1))
    seen = len(_records(folder)), _events(folder)["train/loss"]
    writer.close()

    assert seen == (1, [(1, 1.5)])


def test_a_resumed_run_takes_back_the_points_after_its_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(folder, *(_step(step, loss=9.0) for step in range(1, 6)))
    later = time.time() + 10  # event files of one second are read in the order of their names
    monkeypatch.setattr(time, "time", lambda: later)

    _write(folder, *(_step(step, loss=1.0) for step in range(4, 7)), after_step=3)

    assert _events(folder)["train/loss"] == [(1, 9.0), (2, 9.0), (3, 9.0), (4, 1.0), (5, 1.0), (6, 1.0)]


def test_a_run_begun_anew_takes_everything_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first attempt died before a checkpoint."""
    _write(folder, _evaluation(0), *(_step(step, loss=9.0) for step in range(1, 4)))
    later = time.time() + 10
    monkeypatch.setattr(time, "time", lambda: later)

    _write(folder, _evaluation(0), *(_step(step, loss=1.0) for step in range(1, 3)))

    assert _events(folder)["train/loss"] == [(1, 1.0), (2, 1.0)]
    assert _events(folder)["eval/loss"] == [(0, 1.125)]


def test_a_run_from_the_start_takes_nothing_back(folder: Path) -> None:
    _write(folder, _evaluation(0), _step(1))

    assert _events(folder)["eval/loss"] == [(0, 1.125)]
    assert _events(folder)["train/loss"] == [(1, 1.5)]


def test_without_tensorboard_there_is_the_line_alone(tmp_path: Path) -> None:
    with MetricsWriter(JsonlWriter(tmp_path / "metrics.jsonl"), None) as writer:
        writer.write(_step(1))

    assert len(_records(tmp_path)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("refused", ["__init__", "add_scalar", "flush", "close"])
def test_event_files_that_cannot_be_written_cost_no_line(folder: Path, refused: str, logged: Logged) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    with mock.patch.object(SummaryWriter, refused, autospec=True, side_effect=full):
        _write(folder, _step(1), _step(2))

    assert [record["step"] for record in _records(folder)] == [1, 2]
    assert [record.getMessage() for record in logged.records] == [
        f"TensorBoard files cannot be written ({full}); metrics.jsonl goes on."
    ]


def test_a_loss_that_is_no_number_is_written_as_its_name(folder: Path) -> None:
    _write(folder, _step(1, loss=float("nan")))

    assert _records(folder)[0]["train/loss"] == "nan"


def test_after_closing_nothing_is_written(folder: Path) -> None:
    writer = MetricsWriter(JsonlWriter(folder / "metrics.jsonl"), folder / "events")
    writer.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        writer.write(_step(1))

    assert _records(folder) == []


def test_the_lines_are_put_on_the_disk_when_asked(folder: Path) -> None:
    lines = JsonlWriter(folder / "metrics.jsonl")
    with (
        MetricsWriter(lines, None) as writer,
        mock.patch("os.fsync", autospec=True, side_effect=OSError(errno.EIO, "bad disk")),
        pytest.raises(OSError, match="bad disk"),
    ):
        writer.sync()
