"""The bundled SmolLM2 itself: gradients of one real step against plain transformers and peft, in fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from backend import data_pipeline
from backend.core.device import ComputePlan
from backend.core.encoding.examples import Example
from backend.core.lanes import Lanes
from backend.core.model_loader import load_base
from backend.core.tokenizer import load_tokenizer
from backend.run.config import DataConfig, TrainingConfig, TuningConfig
from backend.training.batching import pack
from backend.training.forward import choose_forward
from backend.training.gradients import step_gradients
from backend.training.loop import TrainState
from backend.training.objective import Supervised
from backend.training.tuning import make_trainable
from tests.backend.core.rows import no_total

FOOD = Path(__file__).parents[2] / "examples" / "food-category" / "train.jsonl"
PLAN = ComputePlan("cpu", "float32", lanes=2, threads=1, matmul_precision="highest")

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


@pytest.fixture(scope="module")
def examples(smollm2: Path) -> list[Example]:
    data = DataConfig(train=str(FOOD), validation=0.0)
    rows = data_pipeline.load(data, seed=0).train[:4]
    return list(data_pipeline.encode(rows, load_tokenizer(smollm2), data))


@pytest.fixture(scope="module")
def state(smollm2: Path) -> TrainState:
    model = make_trainable(load_base(smollm2, dtype=torch.float32), TuningConfig(), seed=0)
    noise = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=noise)
    return TrainState.start(choose_forward(model), TrainingConfig(learning_rate=1e-3))


def gradients(state: TrainState, examples: list[Example], parts: int) -> tuple[float, Tensor]:
    batches = pack(examples, budget=1 << 20, parts=parts)
    with Lanes(2) as lanes:
        found = step_gradients(
            state.forward, list(state.parameters.values()), batches, PLAN, lanes,
            objective=Supervised(), total=no_total, seed=0, step=1,
        )  # fmt: skip
    return found.loss, torch.cat([gradient.double().flatten() for gradient in found.gradients])


@pytest.fixture(scope="module")
def whole(state: TrainState, examples: list[Example]) -> tuple[float, Tensor]:
    """Loss and gradients of the whole step at once."""
    return gradients(state, examples, parts=1)


def reference(state: TrainState, examples: list[Example], folder: Path) -> tuple[float, Tensor]:
    """Padded rows with labels of -100 through transformers and peft as they come."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    settings = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, settings)
    model.load_state_dict(state.forward.model.state_dict())
    width = max(len(example.input_ids) for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.int64)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for line, example in enumerate(examples):
        length = len(example.input_ids)
        ids[line, :length] = torch.from_numpy(example.input_ids)
        labels[line, :length] = torch.from_numpy(np.where(example.trained, example.input_ids, -100))
        mask[line, :length] = 1
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    grads = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
    return float(loss.detach()), torch.cat([grads[name].double().flatten() for name in state.parameters])


def test_gradients_of_a_real_step_equal_those_of_transformers_and_peft(
    state: TrainState, examples: list[Example], whole: tuple[float, Tensor], smollm2: Path
) -> None:
    loss, found = whole
    expected_loss, expected = reference(state, examples, smollm2)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert float((found - expected).norm() / expected.norm()) < 1e-4


def test_four_micro_batches_are_one(
    state: TrainState, examples: list[Example], whole: tuple[float, Tensor]
) -> None:
    expected_loss, expected = whole
    loss, found = gradients(state, examples, parts=4)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert float((found - expected).norm() / expected.norm()) < 1e-5
