from __future__ import annotations

import torch

from backend.core.engine.block import describe
from backend.core.engine.weights import read_weights
from tests.backend.core.engine.models import model_of


def test_the_models_own_tensors_are_read() -> None:
    model = model_of("qwen3")
    weights = read_weights(model, describe(model))
    attention = model.model.layers[1].self_attn
    assert weights.layers[1].query.data.data_ptr() == attention.q_proj.weight.data_ptr()
    assert torch.equal(weights.layers[1].query_norm, attention.q_norm.weight)
    assert weights.head.data.data_ptr() == weights.embedding.data_ptr()
    assert weights.bytes == sum(part.numel() * 4 for part in model.parameters() if part.dim() == 2)


def test_biases_and_the_offset_of_norms_are_read() -> None:
    biased, gemma = model_of("biased"), model_of("gemma")
    assert torch.equal(
        read_weights(biased, describe(biased)).layers[0].output.bias,
        biased.model.layers[0].self_attn.o_proj.bias,
    )
    assert torch.equal(read_weights(gemma, describe(gemma)).norm, gemma.model.norm.weight + 1)


def test_what_an_adapter_does_not_change_is_taken_from_the_base() -> None:
    model = model_of("llama")
    block = describe(model)
    base = read_weights(model, block, eight_bits=True)
    changed = model.model.layers[0].self_attn.v_proj.weight
    changed.data = changed.data * 2
    other = read_weights(model, block, eight_bits=True, base=base)
    assert other.layers[1].down is base.layers[1].down
    assert other.head is base.head
    torch.testing.assert_close(other.layers[0].value.dense(), 2 * base.layers[0].value.dense())
