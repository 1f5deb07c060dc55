"""A real model and the real command line: SmolLM2 leaves as an adapter GGUF, a GGUF and a merged model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.commands.cli import main
from backend.core.model_loader import load_base
from backend.core.tokenizer import load_tokenizer
from backend.run.config import TuningConfig
from backend.run.folder import RunDir
from backend.training.checkpoint import save_result
from backend.training.tuning import make_trainable
from tests.runs import SHORT, make_run

FOOD = Path(__file__).parents[2] / "examples" / "food-category" / "train.jsonl"

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def run(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """SmolLM2 with an adapter that changes it a little, as a short training does."""
    made = make_run(tmp_path_factory.mktemp("run") / "runs", smollm2, FOOD, SHORT)
    tuned = make_trainable(load_base(smollm2), TuningConfig(lora_r=4), seed=0)
    noise = torch.Generator().manual_seed(1)
    for name, parameter in tuned.named_parameters():
        scale = 0.01 * ("lora_B" in name)
        parameter.data += scale * torch.randn(parameter.shape, generator=noise)
    save_result(tuned, load_tokenizer(smollm2), made.adapter)
    return made


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--to", "gguf", "--quantization", "F16"], id="gguf", marks=pytest.mark.long),
        pytest.param(["--to", "merged", "--dtype", "bfloat16"], id="merged"),
    ],
)
def test_smollm2_leaves_as_it_was_trained(
    words: list[str], run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main(["export", str(run.path), *words, "--rows", "2", "--out", out, "--json"]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (record["certificate"], record["reasons"]) == ("green", [])
    assert record["figures"]["tokens_compared"] >= 4
