"""Small real runs: the tiny model, a few real rows, the real trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend import trainer_main
from backend.run.config import config_yaml
from backend.run.environment import Environment
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from backend.run.settings import parse_config

MakeRun = Callable[..., RunDir]
_ROWS = Path(__file__).parents[2] / "examples" / "food-category" / "train.jsonl"


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four real rows."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("\n".join(_ROWS.read_text("utf-8").splitlines()[:24]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def make_run(tiny_folder: Path, rows: Path) -> MakeRun:
    """Makes a run of ten steps under a root; ``like`` lends it the compute plan, keywords go to ``training``."""

    def make(root: Path, *, like: RunDir | None = None, data: Path = rows, **training: Any) -> RunDir:
        steps = {"max_steps": 10, "save_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
        raw = {
            "model": {"model_name_or_path": str(tiny_folder)},
            "data": {"train": str(data), "max_length": 512, "validation": 0},
            "tuning": {"lora_r": 4},
            "training": {**steps, **training},
            "logging": {"tensorboard": False},
        }
        run = RunDir.create(root, "tiny", config_yaml(parse_config(raw)))
        if like is not None:
            known = like.read_environment()
            run.write_environment(Environment(plan=known.plan, layers=known.layers))
        return run

    return make


@pytest.fixture(scope="session")
def reference(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run that nothing disturbed; read only."""
    run = make_run(tmp_path_factory.mktemp("reference"))
    outcome = trainer_main.run(run)
    assert outcome.status is RunStatus.FINISHED, outcome
    return run


def result_bits(run: RunDir) -> dict[str, bytes]:
    """The weights of the result and the optimizer moments of the newest checkpoint, byte by byte."""
    folders = (run.adapter, run.checkpoint(run.newest_checkpoint_step()))
    return {
        f"{folder.name}/{path.name}": path.read_bytes()
        for folder in folders
        for path in folder.glob("*.safetensors")
    }


def losses(run: RunDir) -> list[tuple[object, object]]:
    """The series of losses, step by step."""
    return [(record["step"], record["train/loss"]) for record in run.metrics().records]
