"""PiSSA and OLoRA start as PEFT starts them, over a base whose bits stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import PreTrainedModel

from backend.errors import ModelError
from backend.training.checkpoint import save_result
from backend.training.lora import lora_layers
from backend.training.lora_start import start_at_base
from backend.training.tuning import check_tuning, make_trainable, trainable_parameters
from tests.backend.core.rows import lively_model
from tests.backend.training.variants import tuning
from tests.tiny import tiny_model, tiny_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft asks for it
    pytest.mark.filterwarnings("ignore:fan_in_fan_out"),
]
IDS = torch.arange(2, 40)[None]
STARTS = ["pissa", "pissa_niter_4", "olora"]
NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _ours(start: str, *, model: PreTrainedModel | None = None, **settings: Any) -> Any:
    return make_trainable(model or lively_model(), tuning(init_lora_weights=start, **settings), seed=3)


def _peft(start: str, **settings: Any) -> Any:
    torch.manual_seed(3)
    kinds = {"r": 4, "lora_alpha": 8, "target_modules": NAMES, "task_type": "CAUSAL_LM"} | settings
    return get_peft_model(lively_model(), LoraConfig(**kinds, init_lora_weights=start))


def _halves(model: Any) -> dict[str, list[torch.Tensor]]:
    """A, A0, B and -B0 of each layer."""
    return {
        name: [*layer.lora_A["default"].weight.chunk(2, 0), *layer.lora_B["default"].weight.chunk(2, 1)]
        for name, layer in lora_layers(model)
    }


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}}], ids=str)
@pytest.mark.parametrize("start", ["pissa", "olora"])
@torch.no_grad()
def test_the_trained_half_and_its_scale_are_those_of_peft(start: str, settings: dict[str, Any]) -> None:
    theirs = dict(lora_layers(_peft(start, **settings)))
    ours = _ours(start, **settings)
    for name, layer in lora_layers(ours):
        a, _, b, _ = _halves(ours)[name]
        peft_a, peft_b = theirs[name].lora_A["default"].weight, theirs[name].lora_B["default"].weight
        assert (a.shape, b.shape) == (peft_a.shape, peft_b.shape)
        assert layer.scaling["default"] == pytest.approx(theirs[name].scaling["default"])
        torch.testing.assert_close(b @ a, peft_b @ peft_a, rtol=1e-4, atol=1e-4)  # signs are free


@pytest.mark.parametrize("start", STARTS)
@torch.no_grad()
def test_it_begins_at_the_base_and_leaves_its_bits_alone(start: str) -> None:
    base = lively_model()
    before, logits = {name: part.clone() for name, part in base.named_parameters()}, base(IDS).logits
    model = _ours(start, model=base)
    assert all(
        torch.equal(layer.get_base_layer().weight, before[f"{name}.weight"])
        for name, layer in lora_layers(model)
    )
    torch.testing.assert_close(model.eval()(IDS).logits, logits, rtol=1e-5, atol=5e-5)
    for a, start_a, b, minus_start_b in _halves(model).values():
        assert torch.equal(a, start_a)
        assert torch.equal(b, -minus_start_b)
        assert b.abs().max() > 0


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_the_gradient_is_that_of_peft(start: str) -> None:
    ours, theirs = _ours(start).eval(), _peft(start).eval()
    losses, gradients = [], []
    for model in (ours, theirs):
        learned = list(trainable_parameters(model).values())
        loss = model(IDS, labels=IDS).loss
        losses.append(float(loss.detach()))
        gradients.append(torch.autograd.grad(loss, learned))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_only_one_half_is_trained_and_counts() -> None:
    learned = trainable_parameters(_ours("pissa"))
    plain = trainable_parameters(make_trainable(lively_model(), tuning(), seed=0))
    assert [part.shape for part in learned.values()] == [part.shape for part in plain.values()]
    assert all(name.endswith((".lora_A.default.trained", ".lora_B.default.trained")) for name in learned)


def test_half_precision_keeps_its_bits_too() -> None:
    base = lively_model().to(torch.bfloat16)
    before = {name: part.clone() for name, part in base.named_parameters()}
    model = _ours("pissa", model=base)
    assert all(
        torch.equal(layer.get_base_layer().weight, before[f"{name}.weight"])
        for name, layer in lora_layers(model)
    )
    assert {part.dtype for part in trainable_parameters(model).values()} == {torch.float32}
    assert torch.isfinite(model(IDS).logits).all()


@torch.no_grad()
def test_the_random_decomposition_is_that_of_peft() -> None:
    ours, theirs = _peft("gaussian", r=8, lora_alpha=16), _peft("gaussian")
    torch.manual_seed(5)
    start_at_base(ours, "pissa_niter_4")
    torch.manual_seed(5)
    for name, layer in lora_layers(theirs):
        layer.pissa_init("default", "pissa_niter_4")
        a, _, b, _ = _halves(ours)[name]
        torch.testing.assert_close([a, b], [layer.lora_A["default"].weight, layer.lora_B["default"].weight])


@pytest.mark.parametrize("start", STARTS)
def test_the_start_depends_on_the_seed_and_on_nothing_before_it(start: str) -> None:
    first = _halves(_ours(start))
    torch.rand(17)
    second = _halves(_ours(start))
    assert all(
        torch.equal(one, two)
        for name, halves in first.items()
        for one, two in zip(halves, second[name], strict=True)
    )


@torch.no_grad()
def test_the_file_is_a_plain_lora_of_twice_the_rank(tmp_path: Path) -> None:
    model = _ours("pissa", alpha_pattern={"v_proj": 3}, rank_pattern={"q_proj": 2})
    folder = save_result(model, tiny_tokenizer(), tmp_path / "adapter")
    saved = load_file(folder / "adapter_model.safetensors")
    config = LoraConfig.from_pretrained(folder)
    assert (config.r, config.lora_alpha, config.init_lora_weights) == (8, 16, True)
    assert (config.rank_pattern, config.alpha_pattern) == ({"q_proj": 4}, {"v_proj": 6})
    assert saved["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"].shape == (4, 32)
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in saved)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"lora_r": 17, "lora_target_modules": ["k_proj"]}, "has only 16 directions"),
        ({"lora_target_modules": ["q_proj", "embed_tokens"]}, "is no linear layer"),
    ],
    ids=["rank", "embeddings"],
)
def test_what_cannot_start_so_is_refused(settings: dict[str, Any], why: str, tmp_path: Path) -> None:
    asked = tuning(init_lora_weights="pissa", **settings)
    model = tiny_model(tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    for refuse in (
        lambda: make_trainable(model, asked, seed=0),
        lambda: check_tuning(tmp_path, asked),
    ):
        with pytest.raises(ModelError, match=why) as caught:
            refuse()
        assert caught.value.code == "unusable-start"


def test_a_state_of_another_shape_or_without_a_matrix_is_noticed() -> None:
    model = _ours("pissa")
    state = model.state_dict()
    name = next(name for name in state if name.endswith("lora_A.default.weight"))
    with pytest.raises(RuntimeError, match="another shape"):
        model.load_state_dict(state | {name: state[name][:2]})
    del state[name]
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(state)
