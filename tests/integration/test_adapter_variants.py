"""Whatever kind of adapter was trained, everything that reads it gives the logits of the trained model."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from backend.core.model_loader import load_adapter, load_base, merge_adapter
from backend.inference.decoding import for_inference
from backend.inference.shared_base import Adapter, SharedBase
from backend.run.config import TrainingConfig
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from backend.trainer_main import run
from backend.training.checkpoint import save_checkpoint, save_result
from backend.training.loop import train_steps
from tests.backend.core.rows import PLAN, random_rows, start
from tests.backend.test_trainer_main import at_step
from tests.backend.training.variants import CASES, Case
from tests.integration.test_preferences import KILL_AFTER_STEP
from tests.runs import SHORT, make_run, result_bytes
from tests.tables import partly
from tests.tiny import tiny_model_folder, tiny_tokenizer
from tests.trainers import Trainers

IDS = torch.arange(3, 60)[None]
FIVE = TrainingConfig(max_steps=5, per_device_train_batch_size=4, learning_rate=2e-2)
STOPPED: dict[str, dict[str, Any]] = {
    "PiSSA": {"tuning.init_lora_weights": "pissa"},
    "PiSSA in random directions": {"tuning.init_lora_weights": "pissa_niter_2"},
    "DoRA": {"tuning.use_dora": True},
    "embeddings and head": {"tuning.modules_to_save": ["embed_tokens"]},
    "tokens": {"tuning.trainable_token_indices": ["<|im_end|>", 5]},
}
KILLED = ("PiSSA", "DoRA", "embeddings and head", "tokens")
"""One of each mechanism; in-process stops cover the others."""
OFTEN = {
    *("llama plain", "llama rsLoRA with patterns", "llama DoRA from PiSSA", "llama OLoRA", "llama norms"),
    *("llama embeddings and head", "llama tokens", "gpt2 plain", "gpt2 DoRA", "gpt2 embeddings and head"),
    *("untied head alone", "untied tokens", "untied adapters on both ends"),
}
"""Each kind of adapter, and each kind of model; the others join two of them."""
NEAR: dict[str, Any] = {"rtol": 1e-5, "atol": 5e-5}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft asks for it
    pytest.mark.filterwarnings("ignore:fan_in_fan_out"),
]


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    found: Tensor = model(IDS).logits
    return found


@pytest.mark.parametrize(
    "case", partly({name: (case,) for name, case in CASES.items()}, OFTEN, pytest.mark.long)
)
def test_every_reader_of_an_adapter_gives_what_was_trained(case: Case, tmp_path: Path) -> None:
    architecture, tuning, overrides = case
    spread = {"initializer_range": 0.3} | overrides
    base = tiny_model_folder(tmp_path / "base", architecture=architecture, **spread)
    rows = random_rows([9, 14, 20, 7], vocab=len(tiny_tokenizer()))
    state = start(load_base(base), tuning, FIVE)
    frozen = {
        name: part.clone() for name, part in state.forward.causal.named_parameters() if not part.requires_grad
    }

    for _ in train_steps(state, rows, FIVE, PLAN, seed=0):
        pass
    with for_inference(state.forward.model):
        trained = _logits(state.forward.model)
    checkpoint = save_checkpoint(tmp_path / "checkpoints", state, {})
    result = save_result(state.forward.model, tiny_tokenizer(), tmp_path / "adapter")

    assert (trained - _logits(load_base(base))).abs().max() > 0.05
    now = dict(state.forward.causal.named_parameters())
    assert all(torch.equal(now[name], part) for name, part in frozen.items())
    for folder in (result, checkpoint):
        torch.testing.assert_close(_logits(load_adapter(load_base(base), folder)), trained, **NEAR)
    torch.testing.assert_close(_logits(merge_adapter(load_adapter(load_base(base), result))), trained, **NEAR)
    torch.testing.assert_close(
        _logits(PeftModel.from_pretrained(load_base(base), result).eval()), trained, **NEAR
    )
    shared = SharedBase(load_base(base))
    shared.use(Adapter.at(result))
    torch.testing.assert_close(_logits(shared.model), trained, **NEAR)
    shared.use(None)
    assert torch.equal(_logits(shared.model), _logits(load_base(base)))


@pytest.mark.parametrize("settings", STOPPED.values(), ids=STOPPED)
def test_a_run_that_is_stopped_and_resumed_has_the_same_bits(
    settings: dict[str, Any], tmp_path: Path, learner: Path, rows_file: Path
) -> None:
    stopped = make_run(tmp_path / "runs", learner, rows_file, SHORT | settings)
    whole = RunDir(Path(shutil.copytree(stopped.path, tmp_path / "whole")))
    assert run(whole).status is RunStatus.FINISHED
    assert run(stopped, at_step(3, stopped.request_stop)).step == 3
    assert run(stopped).status is RunStatus.FINISHED
    assert result_bytes(stopped) == result_bytes(whole)


@pytest.mark.parametrize("name", KILLED)
def test_a_run_that_is_killed_and_resumed_has_the_same_bits(
    trainers: Trainers, name: str, tmp_path: Path, learner: Path, rows_file: Path
) -> None:
    killed = make_run(tmp_path / "runs", learner, rows_file, SHORT | STOPPED[name])
    whole = RunDir(Path(shutil.copytree(killed.path, tmp_path / "whole")))
    assert trainers.start(whole).wait().code == 0
    assert trainers.start(killed, code=KILL_AFTER_STEP.format(step=3)).wait().code == -signal.SIGKILL
    assert trainers.start(killed).wait().code == 0
    assert result_bytes(killed) == result_bytes(whole)
