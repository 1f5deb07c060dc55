"""One tiny run with held-out rows, loaded and asked once; copies of its exports are for breaking."""

from __future__ import annotations

import json
import subprocess
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch

from backend.core.model_loader import load_adapter
from backend.export import read_with_onnxruntime, read_with_transformers, readers
from backend.export.certificate import Certificate
from backend.export.check import certify
from backend.export.forms import Target, write_form
from backend.export.panel import Answer, Panel, answer, read_panel
from backend.export.trained import Trained, load_trained
from backend.run.folder import RunDir
from tests.backend.export.results import finished, finished_over
from tests.tiny import quiet_transformers, tiny_model_folder

Harm = Callable[[Path, Trained], object]


@dataclass(frozen=True)
class Asked:
    """A trained model that is not merged yet, its panel and its answers."""

    trained: Trained
    panel: Panel
    answers: list[Answer]

    def fresh(self) -> Trained:
        """The trained model once more: writing a merged form uses the adapter up."""
        if self.trained.full:
            return self.trained
        model = load_adapter(self.trained.load_base(), self.trained.result).eval()
        return replace(self.trained, model=model)


def ask(run: RunDir, rows: int = 4) -> Asked:
    """A run, loaded and asked."""
    trained = load_trained(run)
    panel = read_panel(trained.config, trained.tokenizer, trained.model, rows=rows)
    return Asked(trained, panel, answer(trained.model, trained.tokenizer, panel, trained.end_ids))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """A Llama with a tied head; read only, as its model is never merged."""
    return ask(finished(tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="session")
def learned(trained: RunDir) -> Asked:
    """A Llama that was really trained, so that its answers end; read only."""
    return ask(trained)


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """A Qwen2, whose q, k and v have biases, with a head of its own; read only."""
    root = tmp_path_factory.mktemp("qwen2")
    return ask(finished(root, architecture="qwen2", family="qwen3", tie_word_embeddings=False))


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """A Llama that was trained over its base in 4 bits; read only."""
    pytest.importorskip("bitsandbytes")
    root = tmp_path_factory.mktemp("packed")
    folder = tiny_model_folder(root / "model", initializer_range=0.3)
    return ask(finished_over(folder, root, changes={"model.load_in_4bit": True}))


@pytest.fixture
def read_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Readers that take seconds to import transformers read in this process; llama.cpp in another as ever."""
    real, threads = subprocess.run, torch.get_num_threads()
    modules = (read_with_transformers, read_with_onnxruntime)
    known = {module.__file__: partial(read_in_process, module) for module in modules}

    def run(command: list[str], **options: Any) -> Any:
        return known.get(command[-1], real)(command, **options)

    monkeypatch.setattr(readers.subprocess, "run", create_autospec(real, side_effect=run))
    yield
    torch.set_num_threads(threads)


def read_in_process(
    module: ModuleType, command: list[str], **options: Any
) -> subprocess.CompletedProcess[str]:
    """What the child would have done, on one thread, and how it would have ended."""
    job = json.loads(options["input"]) | {"threads": 1}
    with warnings.catch_warnings(), quiet_transformers():
        warnings.simplefilter("ignore")
        try:
            Path(job["answers"]).write_text(json.dumps(module.read(job)))
        except Exception:  # noqa: BLE001 - a child would have died of whatever it is
            return subprocess.CompletedProcess(command, 1, "", traceback.format_exc())
    return subprocess.CompletedProcess(command, 0, "", "")


def export_of(
    asked: Asked, folder: Path, target: Target, precision: str, harm: Harm = lambda *_: None
) -> tuple[Path, Certificate]:
    """A form of a tiny run in ``folder``, broken by ``harm``, and the certificate of what is left."""
    model = asked.fresh()
    payload, _ = write_form(model, target, precision, folder, max_shard_size="5GB")
    harm(payload, model)
    return payload, certify(model, target, precision, payload, asked.panel, asked.answers)
