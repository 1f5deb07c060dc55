"""One run in one line: backend/manager/run_summary.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from backend.manager.run_summary import Labels, peek, read_labels, summarise, what_goes
from backend.run.folder import RunDir
from backend.run.metrics import metrics_record
from backend.run.reports import EvalReport, RunStatus, StepReport
from backend.run.settings import parse_config


def test_a_run_in_a_line(run: RunDir) -> None:
    with run.metrics_writer() as writer:
        for step in range(1, 8):
            writer.append(
                metrics_record(StepReport(step, 10, 0.1, 2.0 / step, 1.0, 1e-3, 9, 5, 1.0, 9 * step))
            )
        writer.append(metrics_record(EvalReport(7, 0.7, 1.5, 40, 4, 0.5)))
    item = summarise(run)
    assert (item.model, item.method) == ("tiny", "lora")
    assert (item.step, item.total_steps) == (7, 10)
    assert item.loss == pytest.approx(2 / 7)
    assert item.eval_loss == 1.5
    assert item.title == run.id


@pytest.mark.parametrize(("objective", "shown"), [("objective:\n  method: dpo\n", "dpo"), ("", "sft")])
def test_what_it_learns_by(tmp_path: Path, objective: str, shown: str) -> None:
    assert summarise(RunDir.create(tmp_path, "a", f"seed: 1\n{objective}")).objective == shown


def test_w20_a_new_run_claims_nothing(run: RunDir) -> None:
    item = summarise(run)
    assert (item.status, item.step, item.loss, item.eval_loss) == (RunStatus.CREATED, 0, None, None)


def test_a_loss_that_was_no_number_is_not_shown(run: RunDir) -> None:
    with run.metrics_writer() as writer:
        writer.append({"kind": "train", "step": 1, "total_steps": 2, "train/loss": float("nan")})
    assert summarise(run).loss is None


def test_a_loss_that_is_no_number_any_more_hides_no_older_one(run: RunDir) -> None:
    with run.metrics_writer() as writer:
        writer.append({"kind": "train", "step": 1, "total_steps": 3, "train/loss": 1.0})
        writer.append({"kind": "train", "step": 2, "total_steps": 3, "train/loss": float("nan")})
    item = summarise(run)
    assert (item.step, item.total_steps, item.loss) == (2, 3, None)


def test_a_run_that_was_only_evaluated(run: RunDir) -> None:
    with run.metrics_writer() as writer:
        writer.append(metrics_record(EvalReport(0, 0.0, 2, 40, 4, 0.5)))
    item = summarise(run)
    assert (item.step, item.total_steps, item.loss, item.eval_loss) == (0, 0, None, 2.0)


def test_a_vanished_run_still_has_a_line(run: RunDir) -> None:
    shutil.rmtree(run.path)
    item = summarise(run)
    assert "gone" in item.damage
    assert item.model == ""


def test_a_copied_run_tells_when_from_its_folder(run: RunDir) -> None:
    copy = RunDir(run.path.rename(run.path.with_name("my-copy")))
    assert summarise(copy).created[:2] == "20"


def test_labels_default_to_none(run: RunDir) -> None:
    assert read_labels(run) == Labels()


class TestPeeking:
    def test_the_real_configuration(self) -> None:
        config = parse_config({"data": {"train": "x.jsonl"}, "model": {"model_name_or_path": "a/b: 'c' # d"}})
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        assert peek(text, "tuning", "method") == config.tuning.method

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("model:\n  name: tiny\n", "tiny"),
            ("model:\n  # the base\n  other: 1\n  name: 'org/tiny'  # small\n", "org/tiny"),
            ("data:\n  name: wrong\nmodel:\n  name: right\n", "right"),
            ("model:\n  other: 1\ndata:\n  name: wrong\n", ""),
            ("", ""),
            ("model: null\n", ""),
        ],
    )
    def test_one_value_of_one_section(self, text: str, value: str) -> None:
        assert peek(text, "model", "name") == value


def test_an_unreadable_config_is_an_empty_one(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.config.mkdir(parents=True)
    assert summarise(run).model == ""


def test_what_deleting_takes_away(run: RunDir) -> None:
    assert what_goes(run) == ["configuration"]
    for step in (1, 2):
        run.checkpoint(step).mkdir(parents=True)
    run.adapter.mkdir()
    run.metrics_writer().close()
    assert what_goes(run) == ["configuration", "curves", "2 checkpoints", "trained adapter"]
    shutil.rmtree(run.path)
    run.path.mkdir()
    assert what_goes(run) == ["damaged files"]
