"""F15: no room for metrics or event files; training goes on or stops with a sentence, and the run stays readable."""

from __future__ import annotations

import errno
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from torch.utils.tensorboard import SummaryWriter

from backend import trainer_main
from backend.manager.run_manager import RunManager
from backend.run.reports import Progress, RunStatus, StepReport
from backend.utils import jsonl_utils
from tests.faults.conftest import MakeRun, losses
from tests.runs import LEARN, learner_folder, write_rows
from tests.runs import make_run as plain_run

WITH_EVENTS = LEARN | {"training.max_steps": 3, "logging.tensorboard": True, "evaluation.eval_steps": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learner_folder(tmp_path_factory.mktemp("model") / "tiny")


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "events")


def test_f15_event_files_that_cannot_be_begun_stop_nothing(tmp_path: Path, model: Path) -> None:
    run = plain_run(tmp_path / "runs", model, write_rows(tmp_path / "rows.jsonl"), WITH_EVENTS)
    run.tensorboard.write_text("in the way")
    assert trainer_main.run(run).status is RunStatus.FINISHED
    assert "TensorBoard files cannot be written" in run.train_log.read_text()
    assert run.metrics().records[-1]["step"] == 3


def test_f15_event_files_that_cannot_go_on_stop_nothing(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SummaryWriter, "flush", create_autospec(SummaryWriter.flush, side_effect=no_room))
    run = plain_run(tmp_path / "runs", model, write_rows(tmp_path / "rows.jsonl"), WITH_EVENTS)
    assert trainer_main.run(run).status is RunStatus.FINISHED
    assert run.train_log.read_text().count("TensorBoard files cannot be written") == 1


def test_f15_metrics_that_do_not_fit_stop_the_run_with_a_sentence(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "runs")

    def fill(progress: Progress) -> None:
        reached = isinstance(progress.report, StepReport) and progress.report.step == 5
        full = {True: [monkeypatch], False: []}[reached]
        _ = [one.setattr(jsonl_utils.JsonlWriter, "append", no_room) for one in full]

    outcome = trainer_main.run(run, fill)
    assert (outcome.status, outcome.code) == (RunStatus.FAILED, "disk-full")
    assert "Make room and resume" in outcome.remedy
    (shown,) = RunManager(tmp_path / "runs").list()
    assert (shown.status, shown.reason, shown.step) == (RunStatus.FAILED, "disk-full", 5)
    monkeypatch.undo()
    assert trainer_main.run(run).status is RunStatus.FINISHED
    assert [step for step, _ in losses(run)] == list(range(1, 11))
