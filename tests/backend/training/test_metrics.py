"""The line and the event file hold the same numbers, and a resumed run leaves no second curve."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from unittest import mock

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from backend.run.reports import EvalReport, StepReport, metrics_scalars
from backend.training.metrics import MetricsWriter
from backend.utils.jsonl_utils import JsonlWriter, read_jsonl_tail

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


def test_a_training_step_is_one_line_and_one_point_a_tag(folder: Path) -> None:
    _write(folder, _step(3))

    (record,) = _records(folder)
    assert {tag for tag in record if "/" in tag} == TRAIN_TAGS == set(_events(folder))
    assert (record["kind"], record["step"], record["total_steps"]) == ("train", 3, 10)


def test_an_evaluation_is_one_line_and_one_point_a_tag(folder: Path) -> None:
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
def test_event_files_that_cannot_be_written_cost_no_line(
    folder: Path, refused: str, caplog: pytest.LogCaptureFixture
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    with mock.patch.object(SummaryWriter, refused, autospec=True, side_effect=full):
        _write(folder, _step(1), _step(2))

    assert [record["step"] for record in _records(folder)] == [1, 2]
    assert [record.message for record in caplog.records] == [
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
