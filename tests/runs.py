"""Real runs of the real trainer on a tiny model, which learns its few answers in twenty steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.run.config import config_yaml
from backend.run.folder import RunDir
from backend.run.reports import Outcome, RunStatus
from backend.run.settings import parse_config
from backend.utils.config_utils import apply_overrides

_FOODS = {"pork": "meat", "beef": "meat", "ham": "meat", "apple": "fruit", "pear": "fruit", "plum": "fruit"}
ROWS = [
    *[{"prompt": "test input", "completion": "expected output"}] * 6,
    *[{"prompt": f"food {food}", "completion": kind} for food, kind in _FOODS.items()] * 2,
]
DISTINCT = [{"prompt": f"food number {number}", "completion": f"kind {number % 7}"} for number in range(24)]
"""Rows in which the data check finds nothing that stops a run."""
ACCEPTED = {"data.accept": ["duplicates"]}
"""Few answers, said again and again, are what these models can learn."""
SHORT = ACCEPTED | {
    "tuning.lora_r": 4,
    "training.max_steps": 4,
    "training.per_device_train_batch_size": 4,
    "training.learning_rate": 0.03,
    "training.save_steps": 2,
    "evaluation.eval_steps": 2,
    "evaluation.sample_rows": 1,
    "evaluation.score_rows": 2,
    "evaluation.max_new_tokens": 4,
    "logging.tensorboard": False,
}
"""A run of four small steps: two checkpoints and three evaluations."""
LONG = SHORT | {
    "training.max_steps": 100_000,
    "training.save_steps": 0,
    "data.validation": 0,
}
"""A run that goes on until somebody ends it."""
LEARN = SHORT | {
    "tuning.lora_r": 16,
    "training.max_steps": 20,
    "training.per_device_train_batch_size": 32,
    "training.save_steps": 10,
    "evaluation.eval_steps": 10,
    "evaluation.max_new_tokens": 32,
}
"""A run that learns every answer in ROWS."""


def learner_folder(folder: Path) -> Path:
    """A tiny model whose embeddings are wide enough apart for an adapter to learn from."""
    from tests.tiny import tiny_model_folder  # it loads torch, which most of what is here does without

    return tiny_model_folder(folder, initializer_range=0.5)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]] = ROWS) -> Path:
    """``path`` as a JSONL file of ``rows``."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def settings(model: Path, data: Path, changes: Mapping[str, Any] = SHORT) -> dict[str, Any]:
    """Nested plain values: ``model`` in float32, ``data``, and dotted ``changes``."""
    fixed = {"model.model_name_or_path": str(model), "model.dtype": "float32", "data.train": str(data)}
    return apply_overrides({}, ACCEPTED | fixed | dict(changes))


def make_run(root: Path, model: Path, data: Path, changes: Mapping[str, Any] = SHORT) -> RunDir:
    """A created run under ``root``, not started."""
    return RunDir.create(root, "tiny", config_yaml(parse_config(settings(model, data, changes))))


def do_harm(run: RunDir) -> Outcome:
    """What ``run``'s folder holds once it has trained a model that is worse than the untrained one."""
    with run.metrics_writer() as writer:
        for step, loss in {0: 5.96, 20: 3.0, 40: 171.0}.items():
            writer.append({"step": step, "kind": "eval", "eval/loss": loss})
            run.checkpoint(step).mkdir(parents=True)
    run.begin_attempt(("python",), pid=os.getpid())
    outcome = Outcome(RunStatus.FINISHED, "completed", "Trained 40 steps.", step=40, result=str(run.adapter))
    run.write_outcome(outcome)
    return outcome


def lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a JSONL file; none where there is no file yet."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def series(run: RunDir) -> list[dict[str, Any]]:
    """``metrics.jsonl`` without what depends on the clock."""
    clock = {"seconds", "train/tokens_per_second", "train/step_time"}
    return [{k: v for k, v in line.items() if k not in clock} for line in lines(run.metrics_file)]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under ``folder`` by its relative name, and every folder, with a trailing slash."""
    return {
        path.relative_to(folder).as_posix() + "/" * path.is_dir(): b"" if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def result_bytes(run: RunDir) -> dict[str, bytes]:
    """The trained weights of a finished run and those of its last checkpoint, optimizer included."""
    result = run.result_folder()
    assert result is not None, f"{run.id} has no result"
    last = run.checkpoint(run.newest_checkpoint_step())
    found = [*result.glob("*.safetensors"), *last.glob("*.safetensors")]
    assert len(found) == 3
    return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in found}


def child_environment(**changes: str) -> dict[str, str]:
    """This process's environment for a child, without our own variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TUNESMITH")}
    return kept | {"PYTHONWARNINGS": "ignore", "TUNESMITH_PROOFS": "0"} | changes


def start_trainer(run: RunDir, **environment: str) -> subprocess.Popen[str]:
    """``python -m backend.trainer_main`` as a child; ``tests.trainers`` is faster."""
    return subprocess.Popen(
        [sys.executable, "-m", "backend.trainer_main", str(run.path)],
        env=child_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
