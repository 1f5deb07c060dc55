"""F18, F19, F20, F23: damaged and foreign checkpoints, and numbers that are none, with the real trainer."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from backend import trainer_main
from backend.core import training
from backend.core.checkpoint import newest_good
from backend.reports import RunStatus
from backend.run_dir import RunDir
from tests.faults.conftest import MakeRun, losses, result_bits


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = {
    "f18 one bit": flip,
    "f19 cut short": lambda data: data[: len(data) // 2],
    "f19 one byte short": lambda data: data[:-1],
    "f19 empty": lambda data: b"",
    "f19 zeros": lambda data: bytes(len(data)),
    "f19 longer": lambda data: data + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_f18_f19_every_file_is_watched(reference: RunDir, tmp_path: Path, damage: Any) -> None:
    names = sorted(path.name for path in reference.checkpoint(10).iterdir())
    assert len(names) >= 4
    for name in names:
        checkpoints = tmp_path / f"damaged {name}"
        shutil.copytree(reference.checkpoints, checkpoints)
        path = checkpoints / "step-000010" / name
        path.write_bytes(damage(path.read_bytes()))
        found, complaints = newest_good(checkpoints)
        assert found is not None
        assert found.step == 8
        assert len(complaints) == 1
        assert name in complaints[0]


def test_f19_a_missing_file_is_noticed(reference: RunDir, tmp_path: Path) -> None:
    for path in reference.checkpoint(10).iterdir():
        checkpoints = tmp_path / f"without {path.name}"
        shutil.copytree(reference.checkpoints, checkpoints)
        (checkpoints / "step-000010" / path.name).unlink()
        found, _ = newest_good(checkpoints)
        assert found is not None
        assert found.step == 8


def test_f18_a_run_goes_on_past_damage_and_leaves_none(
    make_run: MakeRun, reference: RunDir, tmp_path: Path
) -> None:
    run = make_run(tmp_path, like=reference)
    trainer_main.run(run)
    shutil.rmtree(run.adapter)
    weights = run.checkpoint(10) / "adapter_model.safetensors"
    weights.write_bytes(flip(weights.read_bytes()))
    assert trainer_main.run(run).status is RunStatus.FINISHED
    assert newest_good(run.checkpoints)[1] == []
    assert result_bits(run) == result_bits(reference)
    assert losses(run) == losses(reference)


def test_f20_other_data_is_refused_by_name(make_run: MakeRun, rows: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    shutil.copyfile(rows, mine)
    run = make_run(tmp_path, data=mine, max_steps=2)
    trainer_main.run(run)
    shutil.rmtree(run.adapter)
    mine.write_text(mine.read_text("utf-8").replace("food", "thing"), encoding="utf-8")
    outcome = trainer_main.run(run)
    assert (outcome.status, outcome.code) == (RunStatus.FAILED, "inputs-changed")
    assert "mine.jsonl" in outcome.message


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_f23_a_loss_that_is_no_number_stops_before_the_update(
    make_run: MakeRun, reference: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    honest = training.step_gradients

    def poisoned(*args: Any, **options: Any) -> Any:
        loss, gradients = honest(*args, **options)
        return (value if options["step"] == 6 else loss), gradients

    run = make_run(tmp_path, like=reference)
    monkeypatch.setattr(training, "step_gradients", poisoned)
    outcome = trainer_main.run(run)
    assert (outcome.status, outcome.code) == (RunStatus.FAILED, "non-finite-loss")
    assert newest_good(run.checkpoints)[1] == []
    assert run.newest_checkpoint_step() == 4
    for path in (run.metrics_file, run.outcome_file, run.flight_file):
        for line in path.read_text("utf-8").splitlines():
            assert "NaN" not in line
            assert "Infinity" not in line
    monkeypatch.setattr(training, "step_gradients", honest)
    assert trainer_main.run(run).status is RunStatus.FINISHED
    assert result_bits(run) == result_bits(reference)


def test_the_records_of_a_real_run_are_whole_json(reference: RunDir) -> None:
    for path in (*reference.attempts.iterdir(), reference.outcome_file, reference.environment):
        assert json.loads(path.read_text("utf-8"))
