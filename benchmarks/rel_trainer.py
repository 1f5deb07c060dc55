"""What the reliability figures share: small real runs, the real trainer in a child of its own, and a run's bits.

The child is forked from this process, which has imported torch but never computed with it, so that hundreds of
attempts do not each pay for the imports. Everything else is the real thing: run folder, lock, signals, files.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from backend import trainer_main
from backend.run.config import config_yaml
from backend.run.environment import Environment
from backend.run.folder import RunDir
from backend.run.metrics import EVAL_LOSS, GRAD_NORM, LEARNING_RATE, TOKENS_SEEN, TRAIN_LOSS
from backend.run.reports import RunStatus
from backend.run.settings import parse_config

RECIPES: dict[str, dict[str, Any]] = {
    "lora": {"tuning": {"method": "lora", "lora_r": 4}},
    "full": {"tuning": {"method": "full"}},
    "accumulation": {
        "tuning": {"method": "lora", "lora_r": 4},
        "training": {"gradient_accumulation_steps": 3},
    },
    "dropout": {"tuning": {"method": "lora", "lora_r": 4, "lora_dropout": 0.2}},
    "augmentation": {
        "tuning": {"method": "lora", "lora_r": 4},
        "training": {"neftune_noise_alpha": 5.0},
        "augmentation": {"prompt_templates": ["Please: {prompt}"], "noise": 0.1, "typos": 0.03},
    },
}
ROWS = 96
STEPS = 24


@dataclass(frozen=True)
class Workshop:
    """A folder with a tiny model (or the one that ``named`` says), some real rows, and runs."""

    folder: Path
    named: str = ""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = (Path(__file__).resolve().parents[1] / "examples/food-category/train.jsonl").read_text("utf-8")
        self.data.write_text("\n".join(rows.splitlines()[:ROWS]) + "\n", encoding="utf-8")
        if not self.named:
            in_child(lambda: _make_model(Path(self.model)))

    @property
    def model(self) -> str:
        """The model that is trained."""
        return self.named or str(self.folder / "model")

    @property
    def data(self) -> Path:
        """The rows."""
        return self.folder / "rows.jsonl"

    def new_run(self, recipe: str, *, like: RunDir | None = None, **training: Any) -> RunDir:
        """A run of a recipe. ``like`` lends it the compute plan, which a machine may choose differently each time."""
        steps = {"max_steps": STEPS, "save_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
        raw = {
            "model": {"model_name_or_path": self.model},
            "data": {"train": str(self.data), "max_length": 512},
            "evaluation": {"eval_steps": 11, "sample_rows": 1, "score_rows": 2, "max_new_tokens": 4},
            "logging": {"tensorboard": False},
            **RECIPES[recipe],
        }
        raw["training"] = {**steps, **raw.get("training", {}), **training}
        run = RunDir.create(self.folder / "runs", recipe, config_yaml(parse_config(raw)))
        if like is not None:
            known = like.read_environment()
            run.write_environment(Environment(plan=known.plan, layers=known.layers))
        return run


def _make_model(folder: Path) -> None:
    from tests.tiny import tiny_model_folder

    tiny_model_folder(folder)


def in_child(work: Any) -> None:
    """Do ``work`` in a child, so that this process never computes. Raises RuntimeError when it fails."""
    pid = os.fork()
    if pid == 0:
        _leave(work)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"a child ended with {os.waitstatus_to_exitcode(status)}")


def _leave(work: Any) -> None:
    try:
        work()
    except BaseException:  # noqa: BLE001  the door of a child
        traceback.print_exc()
        os._exit(70)
    os._exit(0)


def begin(run: RunDir) -> int:
    """Start an attempt at a run in a child; its pid."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        log = os.open(run.train_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _leave(lambda: trainer_main.run(run))
    return pid


def finish(run: RunDir) -> float:
    """One undisturbed attempt; its seconds. Raises RuntimeError when the run is not finished after it."""
    began = time.perf_counter()
    os.waitpid(begin(run), 0)
    if run.status() is not RunStatus.FINISHED:
        raise RuntimeError(f"{run.path}: {run.state().message}")
    return time.perf_counter() - began


def kill_after(run: RunDir, seconds: float) -> bool:
    """One attempt that is killed after ``seconds``; False when it ended before that."""
    pid = begin(run)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def bits(run: RunDir) -> dict[str, str]:
    """What two runs must share to the last bit: result, newest checkpoint, and the series of losses."""
    result = run.result_folder()
    folders = [folder for folder in (result, run.checkpoint(run.newest_checkpoint_step())) if folder]
    found = {
        f"{folder.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted(folder.glob("*.safetensors"))
    }
    kept = ("step", TRAIN_LOSS, GRAD_NORM, LEARNING_RATE, TOKENS_SEEN, EVAL_LOSS)
    series = [{key: record[key] for key in kept if key in record} for record in run.metrics().records]
    samples = [record.get("generated") for record in run.samples().records]
    found["metrics.jsonl"] = hashlib.sha256(json.dumps([series, samples]).encode()).hexdigest()
    return found
