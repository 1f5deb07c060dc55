"""Q4_0 in torch gives the numbers of the gguf package, bit for bit: backend/core/q4_0.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.core.q4_0 import round_model, round_q4_0
from tests.tiny import tiny_model

WEIGHTS = arrays(np.float32, (2, 64), elements=st.floats(-8, 8, width=32, allow_subnormal=False))


def by_gguf(weight: torch.Tensor) -> torch.Tensor:
    kind = GGMLQuantizationType.Q4_0
    return torch.from_numpy(dequantize(quantize(weight.numpy(), kind), kind))


@given(WEIGHTS)
def test_it_rounds_as_gguf_does(weight: np.ndarray) -> None:
    given_weight = torch.from_numpy(weight)
    assert torch.equal(round_q4_0(given_weight), by_gguf(given_weight))


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e3])
def test_weights_of_any_size_are_rounded_alike(scale: float) -> None:
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(0)) * scale
    assert torch.equal(round_q4_0(weight), by_gguf(weight))


@given(WEIGHTS)
def test_what_is_rounded_stays_as_it_is(weight: np.ndarray) -> None:
    once = round_q4_0(torch.from_numpy(weight))
    assert torch.equal(round_q4_0(once), once)


def test_a_weight_in_bfloat16_is_rounded_in_float32() -> None:
    weight = torch.randn(4, 32).bfloat16()
    assert round_q4_0(weight).dtype == torch.float32
    assert torch.equal(round_q4_0(weight), by_gguf(weight.float()))


@pytest.mark.parametrize(("tied", "ends"), [(True, set()), (False, {"model.embed_tokens.weight"})])
def test_a_model_is_rounded_but_for_its_head(ends: set[str], *, tied: bool) -> None:
    model = tiny_model(tie_word_embeddings=tied, intermediate_size=48)
    before = {name: part.clone() for name, part in model.state_dict().items()}
    round_model(model)
    after = model.state_dict()
    changed = {
        name.partition("layers.0.")[2] or name
        for name, part in after.items()
        if "layers.1." not in name and not torch.equal(part, before[name])
    }
    attention = {f"self_attn.{name}_proj.weight" for name in "qkvo"}
    mlp = {"mlp.gate_proj.weight", "mlp.up_proj.weight"}  # rows of down_proj are no whole blocks here
    assert changed == attention | mlp | ends
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(after[name], by_gguf(before[name]))
