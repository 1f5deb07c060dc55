"""Every family of causal language models that transformers knows, built tiny, and how Tunesmith trains it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from backend.core.device import ComputePlan
from backend.core.encoding.examples import Example
from backend.core.lanes import Lanes
from backend.errors import ModelError
from backend.inference.decode_proof import prove_decoding
from backend.run.config import TuningConfig
from backend.training.batching import pack
from backend.training.forward import ForwardPass, choose_forward
from backend.training.gradients import step_gradients
from backend.training.objective import Supervised
from backend.training.tuning import make_trainable
from tests.backend.core.rows import no_total, random_rows

FAMILIES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
VOCABULARY = 128
LONGEST = 40
EQUAL = 1e-5
"""Relative error of a gradient in float32 below which it is called equal; measured: under 2e-6."""
PLAN = ComputePlan("cpu", "float32", lanes=1, threads=1, matmul_precision="highest")

_SIZES = {
    VOCABULARY: "vocab_size decoder_vocab_size audio_vocab_size",
    32: "hidden_size n_embd d_model emb_dim dim embedding_size word_embed_proj_dim lru_width attention_hidden_size "
    "block_dim dim_model",
    48: "intermediate_size ffn_dim d_ff n_inner dff d_inner dim_ff intermediate_size_mlp decoder_ffn_dim "
    "encoder_ffn_dim ffn_hidden_size feed_forward_size shared_expert_intermediate_size",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers "
    "num_encoder_layers num_experts_per_tok moe_k moe_topk num_experts_per_token num_key_value_heads top_k_experts "
    "num_blocks",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads attention_heads encoder_attention_heads "
    "num_decoder_attention_heads num_encoder_attention_heads num_local_experts num_experts n_routed_experts "
    "moe_num_experts num_routed_experts",
    8: "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim kv_channels attention_head_dim rotary_dim "
    "linear_key_head_dim linear_value_head_dim state_size ssm_state_size query_pre_attn_scalar",
    16: "moe_intermediate_size q_lora_rank kv_lora_rank o_lora_rank expert_ffn_hidden_size",
    256: "max_position_embeddings n_positions max_seq_len max_target_positions max_source_positions",
    64: "sliding_window attention_chunk_size attention_window_size local_attention window_size",
    1: "n_group topk_group n_groups mamba_n_groups first_k_dense_replace bos_token_id",
    0: "pad_token_id",
}
_PLAIN = {name: size for size, names in _SIZES.items() for name in names.split()} | {"eos_token_id": 2}
"""What every family gets that has a setting of the name."""
_ALL_HEADS = {"num_key_value_heads": 4}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
_MIXED = {"layer_types": ["linear_attention", "full_attention"]}
_CONVOLVING = {"layer_types": ["conv", "full_attention"]}
_VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_ODD: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite"), _ALL_HEADS
    ),
    **dict.fromkeys(("longcat_flash", "minicpm3", "youtu", "glm_moe_dsa", "dots3_note_text"), _ALL_HEADS),
    "bamba": _MAMBA | {"attn_layer_indices": [1]},
    "dots1": {"n_shared_experts": 1},
    "falcon_h1": _MAMBA | {"mamba_d_ssm": 64},
    "gemma3": {"vision_config": _VISION | {"image_size": 28, "patch_size": 14}, "mm_tokens_per_image": 4},
    "gemma4_text": {"vocab_size_per_layer_input": 128, "hidden_size_per_layer_input": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": _MAMBA,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "lfm2": _CONVOLVING,
    "lfm2_moe": _CONVOLVING | {"num_dense_layers": 1},
    "lfm3": _CONVOLVING,
    "mamba2": {"num_heads": 8},
    "minimax": _MIXED | {"block_size": 16},
    "olmo_hybrid": _MIXED,
    "qwen3_5_text": _MIXED,
    "qwen3_5_moe_text": _MIXED,
    "qwen3_next": _MIXED,
    "reformer": {"is_decoder": True},
    "xlm": {"causal": True},
    "zaya": {"num_experts_per_tok": 1},
}
"""What a family needs besides: sizes that must fit each other, and layers of both kinds where it mixes them."""
_LARGEST = 4_000_000
"""Parameters of a model that counts as tiny."""


@dataclass(frozen=True)
class Verdict:
    """How a family is trained: ``way`` is packed, padded or refused, ``why`` the reason for the last.

    ``draws``: random numbers are drawn while training, with the family's own settings. ``error``: relative error of
    the gradient of a step of rows, against the model's own forward pass, row by row.
    """

    way: str
    why: str = ""
    draws: bool = False
    error: float = 0.0


def tiny_config(family: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of ``family`` with few and small layers; ``changes`` are made where it has such settings."""
    kind = CONFIG_MAPPING[family]
    known = {**getattr(kind, "__dataclass_fields__", {}), **getattr(kind, "__annotations__", {})}
    own = {name: value for name, value in changes.items() if name in known}
    return kind(**_settings(kind) | _ODD.get(family, {}) | own)


def _settings(kind: type[PreTrainedConfig]) -> dict[str, Any]:
    known = {**getattr(kind, "__dataclass_fields__", {}), **getattr(kind, "__annotations__", {})}
    own = {name: size for name, size in _PLAIN.items() if name in known}
    parts = getattr(kind, "sub_configs", None) or {}
    return own | {name: _settings(part) for name, part in parts.items() if hasattr(part, "sub_configs")}


def build(family: str) -> PreTrainedModel:
    """A model of ``family`` whose weights differ enough that a wrong token or position shows."""
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(tiny_config(family))
    if (count := sum(part.numel() for part in skeleton.parameters())) > _LARGEST:
        raise ValueError(f"{count} parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(tiny_config(family)).float().eval()
        for part in model.parameters():
            nn.init.normal_(part.data, std=0.15) if part.ndim > 1 else part.data.add_(
                0.1 * torch.randn(part.shape)
            )
    return model


def row(family: str) -> str:
    """The line of ``family`` in docs/families.md. Raises what building it raises."""
    return f"| {family} | {trained(family)} | {answered(family)} |"


def trained(family: str) -> str:
    """How ``family`` is trained, whether the gradient is its own, and whether it draws: three cells of the table."""
    method, verdict = "LoRA", judge(build(family), TuningConfig(lora_r=4))
    if verdict.way == "refused" and "lora_target_modules" in verdict.why:
        method, verdict = "full", judge(build(family), TuningConfig(method="full"))
    if verdict.way == "refused":
        return f"refused: {verdict.why.rstrip('.')} | – | –"
    same = "equal" if verdict.error < EQUAL else f"off by {verdict.error:.0e}"
    return f"{verdict.way}, {method} | {same} | {'yes' if verdict.draws else 'no'}"


def answered(family: str) -> str:
    """How ``family`` writes answers: one cell of the table."""
    try:
        way = prove_decoding(build(family))
    except ModelError as error:
        return f"refused: {error.code}"
    return "side by side" if way.batched else "one by one"


def judge(model: PreTrainedModel, tuning: TuningConfig) -> Verdict:
    """How ``model`` is trained by ``tuning``, and whether the gradient is its own."""
    rows = random_rows([5, 12, 20, 33, 12], shared=4, vocab=VOCABULARY - 8)
    try:
        forward = choose_forward(make_trainable(model, tuning, seed=0), longest_row=LONGEST)
    except ModelError as error:
        return Verdict("refused", error.message.partition(": it ")[2] or error.message)
    learned = [part for part in forward.model.parameters() if part.requires_grad]
    generator = torch.Generator().manual_seed(1)
    for part in learned:
        part.data.add_(0.05 * torch.randn(part.shape, generator=generator))
    forward.model.eval()
    batches = pack(rows, budget=60, parts=2, share_prefixes=forward.packed and not forward.is_random)
    with Lanes(1) as pool:
        found = step_gradients(
            forward, learned, batches, PLAN, pool, objective=Supervised(), total=no_total, seed=0, step=1
        ).gradients
    return Verdict(
        "packed" if forward.packed else "padded",
        draws=forward.is_random,
        error=_relative_error(found, _own_gradient(forward, rows, learned)),
    )


def _own_gradient(forward: ForwardPass, rows: list[Example], learned: list[nn.Parameter]) -> list[Tensor]:
    """The gradient of the mean loss as transformers computes it, one row after the other."""
    causal = forward.causal
    if forward.packed:
        causal.set_attn_implementation("sdpa" if causal._supports_sdpa else "eager")
    count = sum(int(row.trained[1:].sum()) for row in rows)
    total = [torch.zeros_like(part) for part in learned]
    for row in rows:
        ids = torch.from_numpy(row.input_ids)[None]
        labels = ids[0, 1:].masked_fill(~torch.from_numpy(row.trained[1:]), -100)
        everything = torch.ones_like(ids)  # else XLM takes a padding token for the end of the row
        logits = (
            forward.model(input_ids=ids, attention_mask=everything, use_cache=False).logits[0, :-1].float()
        )
        loss = F.cross_entropy(logits, labels, reduction="sum") / count
        found = torch.autograd.grad(loss, learned, allow_unused=True, materialize_grads=True)
        total = [mine + part for mine, part in zip(total, found, strict=True)]
    return total


def _relative_error(found: list[Tensor], wanted: list[Tensor]) -> float:
    difference = math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(found, wanted, strict=True)))
    return difference / math.sqrt(sum(float(b.square().sum()) for b in wanted))
