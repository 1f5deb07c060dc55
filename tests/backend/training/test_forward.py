"""The loss is the model's own, packed where that is proved and padded where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    XLMConfig,
    XLMWithLMHeadModel,
)

from backend.core import packed_attention
from backend.core.encoding.examples import Example
from backend.errors import ModelError
from backend.run.config import TuningConfig
from backend.training.batching import pack
from backend.training.forward import ForwardPass, choose_forward
from backend.training.tuning import make_trainable
from tests.backend.core.odd_models import (
    chunked_attention,
    dynamic_rope,
    functional_dropout,
    jittering_router,
    long_rope,
    short_convolutions,
    with_vision,
)
from tests.backend.core.rows import LORA, PLAN, lively_model, random_rows
from tests.tiny import tiny_model

ROWS = random_rows([5, 9, 14, 30, 33], shared=4)
SIZES = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SIZES | {"num_key_value_heads": 2}


def _seeded(model: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return model(config).eval()


def _with_bias(model: PreTrainedModel) -> PreTrainedModel:
    nn.init.normal_(model.get_output_embeddings().bias)
    return model


PACKED: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: lively_model("llama"),
    "llama untied": lambda: lively_model("llama", tie_word_embeddings=False),
    "qwen2": lambda: lively_model("qwen2"),
    "qwen3": lambda: lively_model("qwen3"),
    "gpt2": lambda: lively_model("gpt2"),
    "head with a bias": lambda: _with_bias(_seeded(PhiForCausalLM, PhiConfig(**GROUPED))),
    "divided logits": lambda: _seeded(GraniteForCausalLM, GraniteConfig(**GROUPED, logits_scaling=4.0)),
    "multiplied logits": lambda: _seeded(CohereForCausalLM, CohereConfig(**GROUPED, logit_scale=0.25)),
}
PADDED: dict[str, Callable[[], PreTrainedModel]] = {
    "sliding window": lambda: _seeded(MistralForCausalLM, MistralConfig(**GROUPED, sliding_window=20)),
    "capped scores": lambda: _seeded(Gemma2ForCausalLM, Gemma2Config(**GROUPED, head_dim=8)),
    "own attention": lambda: _seeded(
        BloomForCausalLM,
        BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=512, initializer_range=0.3),
    ),
    "no attention": lambda: _seeded(
        MambaForCausalLM,
        MambaConfig(
            **{k: SIZES[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers")}, state_size=4
        ),
    ),
}


def _own_loss(model: PreTrainedModel, rows: list[Example]) -> float:
    """The loss as transformers computes it, each row alone, -100 where nothing is trained."""
    total = 0.0
    for row in rows:
        ids = torch.tensor(row.input_ids)[None]
        labels = ids.masked_fill(~torch.tensor(row.trained)[None], -100)
        logits = model(input_ids=ids, use_cache=False).logits
        total += F.cross_entropy(
            logits[0, :-1].float(), labels[0, 1:], ignore_index=-100, reduction="sum"
        ).item()
    return total


def _loss(forward: ForwardPass, rows: list[Example]) -> float:
    batches = pack(rows, budget=40, share_prefixes=forward.packed)
    return sum(forward.loss_sum(batch).item() for batch in batches)


@pytest.mark.parametrize("build", PACKED.values(), ids=PACKED)
@torch.no_grad()
def test_packed_rows_have_the_models_own_loss(build: Callable[[], PreTrainedModel]) -> None:
    model = build()
    expected = _own_loss(model, ROWS)

    forward = choose_forward(model)

    assert forward.packed
    assert model.config._attn_implementation == packed_attention.NAME
    assert _loss(forward, ROWS) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("build", PADDED.values(), ids=PADDED)
@torch.no_grad()
def test_where_rows_cannot_be_packed_padded_ones_have_the_models_own_loss(
    build: Callable[[], PreTrainedModel],
) -> None:
    model = build()
    own_attention = model.config._attn_implementation
    expected = _own_loss(model, ROWS)

    forward = choose_forward(model, longest_row=33)

    assert not forward.packed
    assert model.config._attn_implementation == own_attention
    assert _loss(forward, ROWS) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("longest_row", "packed"), [(None, False), (21, False), (20, True), (8, True)])
@torch.no_grad()
def test_a_sliding_window_is_no_hindrance_to_rows_within_it(longest_row: int | None, packed: bool) -> None:
    model = PADDED["sliding window"]()
    rows = random_rows([5, 9, 14, 20])
    expected = _own_loss(model, rows)

    forward = choose_forward(model, longest_row=longest_row)

    assert forward.packed is packed
    assert _loss(forward, rows) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("build", "tuning", "packed"),
    [
        (lambda: lively_model("llama"), TuningConfig(lora_dropout=0.3), True),
        (lambda: lively_model("llama", attention_dropout=0.3), LORA, False),
        (lambda: lively_model("gpt2", attn_pdrop=0.3, resid_pdrop=0.3), TuningConfig(method="full"), False),
    ],
    ids=["LoRA dropout", "attention dropout", "dropout everywhere"],
)
def test_dropout_is_put_aside_for_the_proof_and_is_back_for_training(
    build: Callable[[], PreTrainedModel], tuning: TuningConfig, packed: bool
) -> None:
    model = make_trainable(build(), tuning, seed=0)

    forward = choose_forward(model)

    assert forward.packed is packed
    assert model.training
    assert all(part.training for part in model.modules())
    assert _loss(forward, ROWS) > 0


@torch.no_grad()
def test_a_model_at_rest_stays_at_rest() -> None:
    model = lively_model()

    choose_forward(model)

    assert not any(part.training for part in model.modules())


def test_a_model_whose_loss_is_not_in_its_hidden_states_is_refused() -> None:
    """BERT's head transforms the states once more before the vocabulary."""
    model = _seeded(BertLMHeadModel, BertConfig(**SIZES, is_decoder=True))

    with pytest.raises(ModelError, match="bert") as caught:
        choose_forward(model)

    assert caught.value.code == "unsupported-architecture"
    assert caught.value.remedy


class _Forgetful(nn.Module):
    """A last norm that leaves the states of one position out when rows come packed."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        keep = torch.ones(states.shape[1], 1)
        keep[20:] = 0.0
        return self.norm(states) * keep


@torch.no_grad()
def test_a_packed_loss_that_is_wrong_is_not_used() -> None:
    """Rows of the proof have 17 and 15 tokens alone and 26 packed; only the packed ones reach position 20."""
    model = lively_model()
    model.base_model.norm = _Forgetful(model.base_model.norm)

    forward = choose_forward(model)

    assert not forward.packed


@torch.no_grad()
def test_the_states_come_one_a_distinct_token() -> None:
    forward = choose_forward(lively_model())
    (batch,) = pack(ROWS, budget=1000)

    assert forward.hidden_states(batch).shape == (len(batch.input_ids), 32)
    assert len(batch.input_ids) < batch.tokens


def test_the_model_under_an_adapter_and_a_bare_one_are_both_found() -> None:
    base = lively_model()
    adapted = make_trainable(base, LORA, seed=0)

    assert ForwardPass(adapted, packed=False).causal is base
    assert ForwardPass(base, packed=False).causal is base


def test_an_adapter_on_the_head_is_part_of_the_loss() -> None:
    tuning = TuningConfig(lora_target_modules=["q_proj", "lm_head"])
    model = make_trainable(lively_model(tie_word_embeddings=False), tuning, seed=0)
    with torch.no_grad():
        nn.init.normal_(model.get_base_model().lm_head.lora_B["default"].weight)
        expected = _own_loss(model, ROWS)

        assert _loss(choose_forward(model), ROWS) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_attention_sinks_run_padded() -> None:
    config = GptOssConfig(
        **GROUPED,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    model = _seeded(GptOssForCausalLM, config)
    expected = _own_loss(model, ROWS)

    forward = choose_forward(model, longest_row=33)

    assert not forward.packed
    assert _loss(forward, ROWS) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("build", [PACKED["llama"], PADDED["own attention"]], ids=["packed", "padded"])
@torch.no_grad()
def test_noise_is_drawn_while_training_only(build: Callable[[], PreTrainedModel]) -> None:
    plain = choose_forward(build())
    noisy = replace(plain, neftune_noise_alpha=5.0)
    (batch,) = pack(ROWS, budget=1 << 20, share_prefixes=False)
    quiet = float(noisy.loss_sum(batch))
    assert quiet == float(plain.loss_sum(batch))

    noisy.model.train()
    torch.manual_seed(1)
    first = float(noisy.loss_sum(batch))
    torch.manual_seed(1)
    assert first == float(noisy.loss_sum(batch))
    assert first != quiet
    assert float(plain.loss_sum(batch)) == quiet


@pytest.mark.parametrize(
    ("dtype", "plan_dtype", "mixed"),
    [
        (torch.float32, "bfloat16", True),
        (torch.float32, "float32", False),
        (torch.bfloat16, "bfloat16", False),
    ],
)
def test_products_are_in_half_precision_where_fp32_weights_are_trained_so(
    dtype: torch.dtype, plan_dtype: str, mixed: bool
) -> None:
    with ForwardPass(lively_model().to(dtype), packed=False).autocast(replace(PLAN, dtype=plan_dtype)):
        assert torch.is_autocast_enabled("cpu") is mixed


@pytest.mark.parametrize(
    ("alpha", "dropout", "random"), [(0.0, 0.0, False), (5.0, 0.0, True), (0.0, 0.1, True)]
)
def test_noise_or_dropout_make_it_random(alpha: float, dropout: float, random: bool) -> None:
    forward = choose_forward(make_trainable(tiny_model(attention_dropout=dropout), LORA, seed=0))
    assert replace(forward, neftune_noise_alpha=alpha).is_random is random


# --- what is proved before training -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layers_that_link_neighbours_otherwise_than_by_attention_are_not_packed(dtype: torch.dtype) -> None:
    model = make_trainable(short_convolutions().to(dtype), LORA, seed=0)

    assert not choose_forward(model, longest_row=33).packed


class _Leaking(nn.Module):
    """A norm that lets a little of each token into the next one."""

    def __init__(self, norm: nn.Module, share: float) -> None:
        super().__init__()
        self.norm, self.share = norm, share

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)
        return self.norm(states) + self.share * before


@pytest.mark.parametrize("share", [0.003, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_whose_states_hang_on_the_row_before_are_not_packed(dtype: torch.dtype, share: float) -> None:
    model = lively_model()
    model.base_model.norm = _Leaking(model.base_model.norm, share)

    assert not choose_forward(make_trainable(model.to(dtype), LORA, seed=0), longest_row=33).packed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_proof_runs_in_the_precision_of_the_run(dtype: str) -> None:
    model = make_trainable(lively_model(), TuningConfig(method="full"), seed=0)
    seen: set[torch.dtype] = set()
    model.base_model.layers[0].self_attn.q_proj.register_forward_hook(
        lambda _module, _given, output: seen.add(output.dtype)
    )

    forward = choose_forward(model, plan=replace(PLAN, dtype=dtype))

    assert forward.packed
    assert seen == {getattr(torch, dtype)}


@pytest.mark.parametrize(("longest_row", "packed"), [(None, False), (200, False), (128, True)])
def test_what_layers_do_not_see_is_minded_under_any_name(longest_row: int | None, packed: bool) -> None:
    model = make_trainable(chunked_attention(128), LORA, seed=0)

    assert choose_forward(model, longest_row=longest_row).packed is packed


@pytest.mark.parametrize("probability", [0.1, 0.001])
def test_dropout_without_a_module_is_found(probability: float) -> None:
    forward = choose_forward(make_trainable(functional_dropout(probability), LORA, seed=0), longest_row=33)

    assert forward.is_random


@pytest.mark.parametrize("tuning", [LORA, TuningConfig(method="full")], ids=["lora", "full"])
def test_a_router_that_draws_is_found(tuning: TuningConfig) -> None:
    assert choose_forward(make_trainable(jittering_router(), tuning, seed=0), longest_row=33).is_random


def test_the_proof_leaves_the_generators_as_they_were() -> None:
    model = make_trainable(functional_dropout(), LORA, seed=0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    choose_forward(model, longest_row=33)

    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("build", [long_rope, dynamic_rope])
@torch.no_grad()
def test_rows_on_both_sides_of_a_length_dependent_rope_have_the_models_own_loss(
    build: Callable[[], PreTrainedModel],
) -> None:
    rows = random_rows([5, 14, 30, 33, 60], shared=4, vocab=128)
    expected = sum(_own_loss(build(), [row]) for row in rows)

    forward = choose_forward(build(), longest_row=60)
    (batch,) = pack(rows, budget=1000, share_prefixes=forward.packed)

    assert forward.packed
    assert float(forward.loss_sum(batch)) == pytest.approx(expected, rel=1e-5)


def test_a_weight_that_is_no_number_is_not_blamed_on_the_architecture() -> None:
    model = lively_model()
    model.base_model.layers[1].mlp.up_proj.weight.data[3, 3] = torch.nan

    with pytest.raises(ModelError, match="weights are damaged") as caught:
        choose_forward(model)

    assert caught.value.code == "damaged-weights"


def test_a_model_that_sees_what_comes_after_is_refused() -> None:
    sizes = {"vocab_size": 128, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64}
    model = XLMWithLMHeadModel(XLMConfig(**sizes, dropout=0.0, attention_dropout=0.0)).eval()

    with pytest.raises(ModelError, match="come after") as caught:
        choose_forward(model, longest_row=33)

    assert caught.value.code == "unsupported-architecture"


def test_a_model_that_reads_only_text_parts_of_itself_is_trained_on_them() -> None:
    forward = choose_forward(make_trainable(with_vision(), LORA, seed=0), longest_row=33)

    assert forward.packed
    assert forward.body is forward.causal.model.language_model


def test_what_has_no_part_in_a_text_is_not_trained() -> None:
    model = with_vision().requires_grad_(requires_grad=False)
    model.model.multi_modal_projector.requires_grad_(requires_grad=True)

    with pytest.raises(ModelError, match="what is to be trained"):
        choose_forward(model)
