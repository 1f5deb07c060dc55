"""Fused LoRA is PEFT's own LoRA: the same numbers where it is plain, PEFT's very code where it is not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import ParamWrapper
from torch import Tensor, nn

from backend.core.fused_lora import fuse_lora, run_experts_in_turn
from backend.core.model_loader import load_base
from backend.core.quantized import Quantization
from tests.locks import Meeting, both

NF4 = Quantization("nf4", nested=True, dtype=torch.float32)
INT8 = Quantization("int8", nested=False, dtype=torch.float32)


class _TwoLayers(nn.Module):
    """The smallest thing PEFT can adapt: one layer with a bias, one without."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 10)
        self.down = nn.Linear(10, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x)))


def _adapted(adapters: int = 1, **settings: Any) -> PeftModel:
    """The same weights at every call; every adapter away from its zeros."""
    torch.manual_seed(0)
    config = LoraConfig(**({"r": 3, "lora_alpha": 5, "target_modules": ["up", "down"]} | settings))
    model = get_peft_model(_TwoLayers(), config)
    for number in range(1, adapters):
        model.add_adapter(f"other{number}", config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in (part for name, part in model.named_parameters() if "lora_" in name):
            part.add_(torch.randn(part.shape, generator=generator))
    return model


def _fused(adapters: int = 1, **settings: Any) -> PeftModel:
    model = _adapted(adapters, **settings)
    assert fuse_lora(model) == 2
    return model


def _outcome(model: PeftModel) -> dict[str, Tensor]:
    """Output, gradient of the input and gradient of every trained weight, for a fixed input."""
    torch.manual_seed(3)
    x = torch.randn(2, 5, 6, requires_grad=True)
    out = model(x)
    learned = {name: part for name, part in model.named_parameters() if part.requires_grad}
    weight = torch.linspace(-1, 1, out.numel()).view_as(out)
    gradients = torch.autograd.grad((out * weight).sum(), [x, *learned.values()], allow_unused=True)
    named = zip(["input", *learned], gradients, strict=True)
    return {"out": out.detach()} | {name: grad for name, grad in named if grad is not None}


def _assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-5, msg=name)


def _is_fused(model: PeftModel) -> list[bool]:
    layers = [model.base_model.model.up, model.base_model.model.down]
    inputs = [torch.ones(1, 6, requires_grad=True), torch.ones(1, 10, requires_grad=True)]
    outputs = [layer(x) for layer, x in zip(layers, inputs, strict=True)]
    return ["FusedLora" in str(out.view(-1).grad_fn.next_functions) for out in outputs]


@pytest.mark.parametrize(
    "settings",
    [{}, {"r": 1}, {"lora_alpha": 1}, {"use_rslora": True}],
    ids=["plain", "rank 1", "scale", "rs"],
)
def test_output_and_gradients_are_those_of_peft(settings: dict[str, Any]) -> None:
    model = _fused(**settings)

    assert _is_fused(model) == [True, True]
    _assert_equal(_outcome(model), _outcome(_adapted(**settings)))


def test_an_input_that_needs_no_gradient_gets_none_and_the_weights_theirs() -> None:
    model, plain = _fused().base_model.model.up, _adapted().base_model.model.up
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))

    for layer in (model, plain):
        layer(x).square().sum().backward()

    for name in ("lora_A", "lora_B"):
        found, wanted = (getattr(layer, name)["default"].weight.grad for layer in (model, plain))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    assert model.get_base_layer().weight.grad is None


def _disabled(model: PeftModel) -> AbstractContextManager[object]:
    return model.disable_adapter()


def _merged(model: PeftModel) -> AbstractContextManager[object]:
    model.merge_adapter()
    return nullcontext()


def _both(model: PeftModel) -> AbstractContextManager[object]:
    model.base_model.set_adapter(["default", "other1"])
    return nullcontext()


def _other(model: PeftModel) -> AbstractContextManager[object]:
    model.set_adapter("other1")
    return nullcontext()


@pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed:UserWarning")  # true of one of the two layers
@pytest.mark.parametrize(
    ("settings", "state"),
    [
        ({"lora_dropout": 0.5}, lambda _: nullcontext()),
        ({"use_dora": True}, lambda _: nullcontext()),
        ({"lora_bias": True}, lambda _: nullcontext()),
        ({}, _disabled),
        ({}, _merged),
        ({"adapters": 2}, _both),
    ],
    ids=["dropout", "DoRA", "adapter bias", "disabled", "merged", "two adapters"],
)
def test_what_is_not_plain_is_computed_by_peft(
    settings: dict[str, Any], state: Callable[[PeftModel], AbstractContextManager[object]]
) -> None:
    model, peft_own = _fused(**settings), _adapted(**settings)

    with state(model), state(peft_own):
        assert _is_fused(model) == [False, False]
        _assert_equal(_outcome(model), _outcome(peft_own))


def test_the_adapter_that_is_active_is_the_one_computed() -> None:
    model, peft_own = _fused(adapters=2), _adapted(adapters=2)
    before = _outcome(model)["out"]

    _other(model)
    _other(peft_own)

    assert _is_fused(model) == [True, True]
    assert not torch.allclose(_outcome(model)["out"], before)
    _assert_equal(_outcome(model), _outcome(peft_own))


def test_a_merge_undone_is_fused_again() -> None:
    model = _fused()
    model.merge_adapter()

    model.unmerge_adapter()

    assert _is_fused(model) == [True, True]
    _assert_equal(_outcome(model), _outcome(_adapted()))


def test_adapter_weights_stay_fp32_beside_half_precision_ones() -> None:
    model, exact = _fused(), _adapted()
    for layer in (model.base_model.model.up, model.base_model.model.down):
        layer.get_base_layer().to(torch.bfloat16)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))

    low = model.base_model.model.up(x.bfloat16())
    high = exact.base_model.model.up(x)
    low.float().sum().backward()
    high.sum().backward()

    grads = [m.base_model.model.up.lora_B["default"].weight.grad for m in (model, exact)]
    assert (low.dtype, grads[0].dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(low.float(), high, rtol=0.05, atol=0.15)
    torch.testing.assert_close(grads[0], grads[1], rtol=0.05, atol=0.3)


def test_a_model_without_lora_has_nothing_to_fuse() -> None:
    assert fuse_lora(_TwoLayers()) == 0


def test_a_model_may_add_to_the_output_in_place() -> None:
    outcomes = []
    for layer in (_adapted().base_model.model.up, _fused().base_model.model.up):
        x = torch.linspace(-1, 1, 60).view(2, 5, 6)
        out = layer(x).add_(1.0)
        learned = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
        outcomes.append([out.detach(), *torch.autograd.grad(out.square().sum(), learned)])
    torch.testing.assert_close(*outcomes)


# peft 0.21 asks transformers 5.23 for a name that it has deprecated
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("stored", [NF4, INT8])
def test_beside_packed_weights_it_is_pefts_own_too(tiny_folder: Path, stored: Quantization) -> None:
    pytest.importorskip("bitsandbytes")

    def outcome(*, fused: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = get_peft_model(
            load_base(tiny_folder, quantization=stored), LoraConfig(target_modules="all-linear")
        )
        assert not fused or fuse_lora(model) == 14
        generator = torch.Generator().manual_seed(1)
        learned = [part for part in model.parameters() if part.requires_grad]
        for part in learned:
            part.data += 0.1 * torch.randn(part.shape, generator=generator)
        out = model(torch.arange(12)[None]).logits
        return [out, *torch.autograd.grad(out.square().sum(), learned)]

    for ours, theirs in zip(outcome(fused=True), outcome(fused=False), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


class _Experts(ParamWrapper):
    """Adapted experts that wait in their forward pass whether another thread comes in."""

    def __init__(self, meeting: Meeting) -> None:
        nn.Module.__init__(self)
        self.meeting = meeting

    def forward(self, x: Tensor) -> Tensor:
        self.meeting.wait()
        return x


@pytest.mark.parametrize(("in_turn", "met"), [(True, False), (False, True)])
def test_adapted_experts_run_in_one_thread_at_a_time(in_turn: bool, met: bool) -> None:
    meeting = Meeting(20 if met else 0.2)
    first, second = _Experts(meeting), _Experts(meeting)
    run_experts_in_turn(nn.ModuleList([first, second] if in_turn else []))
    both(lambda: first(torch.ones(1)), lambda: second(torch.ones(1)))
    assert meeting.happened == met
