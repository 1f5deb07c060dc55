from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from backend.core.engine.block import UnsupportedError, adapter_of, base_of, describe, rotary_table
from backend.utils.warning_utils import unwarned
from tests.backend.core.engine.models import adapted, model_of
from tests.tiny import tiny_model


def test_the_description_of_a_model() -> None:
    block = describe(model_of("gemma"))
    assert (block.hidden, block.heads, block.kv_heads, block.head_width, block.inner) == (32, 4, 2, 8, 72)
    assert (block.depth, block.vocabulary, block.activation, block.norm_offset) == (2, 512, "gelu_tanh", 1.0)
    assert block.embedding_scale == pytest.approx(32**0.5)
    assert describe(model_of("smollm3")).rotates == (True, True, True, False)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("gpt2", "none of the families"),
        ("window", "window"),
        ("dynamic", "rope type dynamic"),
        ("gelu", "activation is gelu"),
    ],
)
def test_what_it_cannot_run_is_refused_with_the_reason(kind: str, why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        describe(model_of(kind))


def test_weights_of_other_kinds_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="neither float32 nor bfloat16"):
        describe(tiny_model("llama").half())
    with pytest.raises(UnsupportedError, match="not on the CPU"):
        describe(tiny_model("llama").to("meta"))


def test_a_hook_or_a_class_of_somebody_elses_is_refused() -> None:
    model = tiny_model("llama")
    hook = model.lm_head.register_forward_hook(lambda *_: None)
    with pytest.raises(UnsupportedError, match="hooked"):
        describe(model)
    hook.remove()
    model.__class__ = type("LlamaForCausalLM", (type(model),), {"__module__": "elsewhere"})
    with pytest.raises(UnsupportedError, match="none of the families"):
        describe(model)


def test_a_matrix_that_is_not_plain_is_refused() -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.__class__ = type("Packed", (torch.nn.Linear,), {})
    with pytest.raises(UnsupportedError, match="not plain"):
        describe(model)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"use_dora": True}, "more than a product"),
        ({"modules_to_save": ["norm"]}, "whole layers are trained"),
        ({"modules_to_save": ["lm_head"]}, "not plain|whole layers are trained"),
        ({"trainable_token_indices": [3]}, "not plain|whole layers are trained"),
    ],
)
def test_an_adapter_that_is_more_than_a_product_is_refused(more: dict[str, Any], why: str) -> None:
    model = tiny_model("llama")
    targets = LoraConfig(r=2, target_modules=["v_proj"], task_type="CAUSAL_LM", **more)
    with unwarned():
        adapter = get_peft_model(model, targets)
    with pytest.raises(UnsupportedError, match=why):
        describe(adapter.get_base_model())


def test_what_stands_beside_a_matrix() -> None:
    layer = adapted("llama").get_base_model().model.layers[0].self_attn
    assert base_of(layer.k_proj) is layer.k_proj
    assert adapter_of(layer.k_proj) is None
    found = adapter_of(layer.q_proj)
    assert found is not None
    torch.testing.assert_close(found[1] @ found[0], layer.q_proj.get_delta_weight("default"))
    layer.q_proj.enable_adapters(False)
    assert adapter_of(layer.q_proj) is None


def test_the_rotary_table_is_that_of_transformers() -> None:
    rotary = model_of("yarn").model.rotary_emb
    cosines, sines = rotary_table(rotary, 40)
    expected = rotary(torch.ones(1), torch.tensor([[7]]))
    assert cosines.shape == sines.shape == (40, 8)
    assert torch.equal(cosines[7], expected[0][0, 0])
    assert torch.equal(sines[7], expected[1][0, 0])
