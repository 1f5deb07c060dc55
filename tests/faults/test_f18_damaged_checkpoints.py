"""F18, F23: damaged checkpoints, and numbers that are none, with the real trainer.

Every damage to every file, and later formats: tests/backend/training/test_checkpoint.py.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend import trainer_main
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from backend.training import loop as training
from backend.training.checkpoint import newest_good
from tests.faults.conftest import MakeRun, losses, result_bits


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


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


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_f23_a_loss_that_is_no_number_stops_before_the_update(
    make_run: MakeRun, reference: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    honest = training.step_gradients

    def poisoned(*args: Any, **options: Any) -> Any:
        found = honest(*args, **options)
        return replace(found, loss=value if options["step"] == 6 else found.loss)

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
