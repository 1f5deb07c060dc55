"""Finished runs without the training: a tiny model of any architecture with an adapter of random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from backend.core.model_files import write_tokenizer
from backend.core.model_loader import load_base
from backend.core.tokenizer import load_tokenizer
from backend.run.checkpoints import write_manifest
from backend.run.config import TuningConfig
from backend.run.folder import RunDir
from backend.training.checkpoint import save_result
from backend.training.tuning import make_trainable
from backend.utils.warning_utils import unwarned
from tests.runs import ROWS, SHORT, make_run, write_rows
from tests.tiny import Architecture, Family, tiny_model_folder


def finished(
    root: Path,
    *,
    family: Family = "chatml",
    architecture: Architecture = "llama",
    method: str = "lora",
    lora: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> RunDir:
    """A run under ``root`` whose result was made, not trained; ``overrides`` go to the model's config.

    ``lora`` are settings of an adapter that peft makes by itself.
    """
    model_folder = tiny_model_folder(
        root / "model", family=family, architecture=architecture, initializer_range=0.3, **overrides
    )
    _bias(model_folder / "model.safetensors")
    return finished_over(model_folder, root, method=method, lora=lora)


def finished_over(
    model_folder: Path,
    root: Path,
    *,
    method: str = "lora",
    lora: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> RunDir:
    """The same over any model that lies in ``model_folder``; ``changes`` are further settings."""
    rows = write_rows(root / "rows.jsonl", ROWS)
    settings = SHORT | {"tuning.method": method, "data.validation": 0.5} | dict(changes or {})
    run = make_run(root / "runs", model_folder, rows, settings)
    tokenizer, base = load_tokenizer(model_folder), load_base(model_folder)
    noise = torch.Generator().manual_seed(1)
    if method == "full":
        save_result(base, tokenizer, run.model)
        return run
    tuned = make_trainable(base, TuningConfig(lora_r=4), seed=0) if lora is None else by_peft(base, lora)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=noise)
    if lora is None:
        save_result(tuned, tokenizer, run.adapter)
    else:
        save_by_peft(tuned, run.adapter)
        write_tokenizer(tokenizer, run.adapter)
        write_manifest(run.adapter)
    return run


def by_peft(base: PreTrainedModel, lora: Mapping[str, Any]) -> PeftModel:
    """``base`` with an adapter of these settings, as peft alone makes it."""
    torch.manual_seed(0)
    usual = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    with unwarned():
        return get_peft_model(base, LoraConfig(**usual | lora))


def save_by_peft(tuned: PeftModel, folder: Path) -> None:
    """The adapter in ``folder`` as peft alone saves it, but without the base's embeddings."""
    with unwarned():
        tuned.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink()


def _bias(file: Path) -> None:
    """Biases that are not zero, as they are in a trained model."""
    noise = torch.Generator().manual_seed(2)
    weights = load_file(file)
    for name in sorted(weights):
        if name.endswith("bias"):
            weights[name] = torch.randn(weights[name].shape, generator=noise)
    save_file(weights, file, metadata={"format": "pt"})
