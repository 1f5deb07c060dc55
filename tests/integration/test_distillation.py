"""A student learns from a teacher's file: from the command that writes it to the same bits after a kill."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from backend.commands.cli import main
from backend.core.encoding.teacher import Teacher
from backend.manager import process_manager
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from tests.integration.test_preferences import KILL_AFTER_STEP, PATIENCE_SECONDS
from tests.runs import ROWS, SHORT, lines, make_run, result_bytes, series, write_rows
from tests.tiny import tiny_model_folder
from tests.trainers import Trainers

FIVE = SHORT | {"training.max_steps": 5, "training.save_steps": 2, "evaluation.eval_steps": 3}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("taught") / "rows.jsonl")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> Path:
    """What another tiny model says of the rows, written by the command."""
    model = tiny_model_folder(tmp_path_factory.mktemp("teacher"), initializer_range=0.5, seed=5)
    out = rows.with_name("rows.teacher.safetensors")
    assert main(["data", "logprobs", str(rows), "--teacher", str(model), "--out", str(out), "--k", "6"]) == 0
    return out


def _run(root: Path, model: Path, rows: Path, teacher: Path, **changes: Any) -> RunDir:
    return make_run(root, model, rows, FIVE | {"data.teacher_logprobs": str(teacher)} | changes)


@pytest.fixture(scope="module")
def undisturbed(
    trainers: Trainers, tmp_path_factory: pytest.TempPathFactory, learner: Path, rows: Path, teacher: Path
) -> RunDir:
    run = _run(tmp_path_factory.mktemp("undisturbed"), learner, rows, teacher)
    end = trainers.start(run).wait()
    assert end.code == 0, end.err
    return run


def test_the_file_says_where_it_comes_from(teacher: Path) -> None:
    about = Teacher(teacher).provenance
    assert (about.k, about.temperature, about.rows, about.max_length) == (6, 1.0, "rows.jsonl", 1024)
    assert len(about.rows_sha256) == len(about.tokenizer) == 64


def test_both_parts_of_the_loss_are_measured_and_the_distance_to_the_teacher_falls(
    undisturbed: RunDir,
) -> None:
    steps = [line for line in lines(undisturbed.metrics_file) if "train/kd_loss" in line]
    for step in steps:
        mixed = 0.9 * step["train/kd_loss"] + 0.1 * step["train/nll_loss"]
        assert step["train/loss"] == pytest.approx(mixed, rel=1e-5)
    assert len(steps) == 5
    assert steps[-1]["train/kd_loss"] < steps[0]["train/kd_loss"]


def test_killed_it_ends_in_the_same_bits(
    trainers: Trainers, undisturbed: RunDir, tmp_path: Path, learner: Path, rows: Path, teacher: Path
) -> None:
    run = _run(tmp_path / "runs", learner, rows, teacher)
    assert trainers.start(run, code=KILL_AFTER_STEP.format(step=3)).wait().code == -signal.SIGKILL
    assert trainers.start(run).wait().code == 0
    assert result_bytes(run) == result_bytes(undisturbed)
    assert series(run) == series(undisturbed)


def test_two_processes_equal_one(
    undisturbed: RunDir, tmp_path: Path, learner: Path, rows: Path, teacher: Path
) -> None:
    half = undisturbed_batch() // 2
    together = {"training.nproc_per_node": 2, "training.per_device_train_batch_size": half}
    run = _run(tmp_path / "runs", learner, rows, teacher, **together)
    process_manager.start(run)
    state = process_manager.wait(run, timeout_seconds=PATIENCE_SECONDS)
    assert state.status is RunStatus.FINISHED, run.train_log.read_text()
    ours, theirs = (load_file(each.adapter / "adapter_model.safetensors") for each in (run, undisturbed))
    assert all(abs(ours[part] - theirs[part]).max() < 1e-4 for part in theirs)


def undisturbed_batch() -> int:
    return int(FIVE.get("training.per_device_train_batch_size", 16))


def test_a_file_that_changed_since_is_no_resume(
    trainers: Trainers, tmp_path: Path, learner: Path, rows: Path, teacher: Path
) -> None:
    own = tmp_path / "t.safetensors"
    own.write_bytes(teacher.read_bytes())
    run = _run(tmp_path / "runs", learner, rows, own)
    assert trainers.start(run, code=KILL_AFTER_STEP.format(step=3)).wait().code == -signal.SIGKILL
    content = bytearray(own.read_bytes())
    content[-1] ^= 1
    own.write_bytes(content)
    assert trainers.start(run).wait().code != 0
    assert run.state().reason == "inputs-changed"


def test_a_file_of_other_rows_is_refused_before_there_is_a_run(
    tmp_path: Path, learner: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [{"prompt": row["prompt"], "completion": f"not {row['completion']}"} for row in ROWS]
    words = [
        "--data.train", str(write_rows(tmp_path / "o.jsonl", others)), "--data.teacher_logprobs", str(teacher),
        "--model.model_name_or_path", str(learner), "--runs", str(tmp_path / "runs"),
    ]  # fmt: skip
    assert main(["train", *words]) == 2
    assert "rows were as they are now (o.jsonl:" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
