"""Our training loop as the benchmarks time it: the same calls a run makes, without a run folder."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from backend import data_pipeline
from backend.core.device import plan_compute, torch_dtype
from backend.core.model_loader import load_base
from backend.core.tokenizer import load_tokenizer
from backend.run.config import DataConfig, TrainingConfig, TuningConfig
from backend.training import loop
from backend.training.batching import Packing
from backend.training.forward import choose_forward
from backend.training.tuning import make_trainable

SEED = 0
_PACKING_OF = loop.packing_of


def read_rows(model: Path, path: str) -> tuple[data_pipeline.Dataset, data_pipeline.EncodedRows]:
    """The rows of a file, as rows and as examples for ``model``."""
    data = DataConfig(train=path, validation=0.0)
    dataset = data_pipeline.load(data, seed=SEED)
    return dataset, data_pipeline.encode(dataset.train, load_tokenizer(model), data)


def tunesmith(
    model: Path,
    rows: data_pipeline.EncodedRows,
    batch: int,
    steps: int,
    *,
    share: bool = True,
    layers: str = "auto",
    dtype: str = "auto",
) -> float:
    """Seconds for all steps but the first; ``share`` False turns prefix sharing off."""
    plan = plan_compute(dtype)
    torch.set_float32_matmul_precision(plan.matmul_precision)
    torch.set_num_threads(plan.threads)
    settings = TrainingConfig(per_device_train_batch_size=batch, max_steps=steps, learning_rate=2e-4)
    forward = choose_forward(
        make_trainable(load_base(model, dtype=torch_dtype(plan)), TuningConfig(), seed=SEED),
        layers=layers,
    )
    state = loop.TrainState.start(forward, settings)
    with mock.patch.object(loop, "packing_of", loop.packing_of if share else _without_sharing):
        reports = loop.train_steps(state, rows, settings, plan, seed=SEED)
        next(reports)
        started = time.perf_counter()
        for _ in reports:
            pass
    return time.perf_counter() - started


def _without_sharing(*given: Any) -> Packing:
    return replace(_PACKING_OF(*given), share_prefixes=False)
