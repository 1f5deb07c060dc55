"""Which kind each tensor gets: backend/export/gguf_mix.py, against what llama-quantize says of published models."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from backend.core.gguf.file import GgufFile, GgufTensor
from backend.export.gguf_mix import MIXES, choose_kinds

IN_LAYER = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def a_model(
    layers: int = 32,
    *,
    width: int = 256,
    parts: tuple[str, ...] = IN_LAYER,
    head: bool = True,
    architecture: str = "llama",
    **facts: int,
) -> GgufFile:
    """The header of a model; of its tensors only names and shapes are read."""
    names = [f"blk.{layer}.{part}.weight" for layer in range(layers) for part in parts]
    names += [f"blk.{layer}.attn_norm.weight" for layer in range(layers)]
    names += ["token_embd.weight", *(["output.weight"] if head else [])]
    nothing = np.zeros((0, 0), np.uint8)
    shapes = {name: (width,) if "norm" in name else (8, width) for name in names}
    heads = {"attention.head_count": 32, "attention.head_count_kv": 32} | facts
    metadata = {
        "general.architecture": architecture,
        f"{architecture}.block_count": layers,
        **{f"{architecture}.{key}": value for key, value in heads.items()},
    }
    tensors = {name: GgufTensor(name, shape, Kind.F32, nothing) for name, shape in shapes.items()}
    return GgufFile(Path("model.gguf"), metadata, tensors)


def matrices(file: GgufFile, precision: str) -> dict[str, int]:
    kinds = choose_kinds(file, precision)
    return dict(Counter(kind.name for name, kind in kinds.items() if "norm" not in name))


@pytest.mark.parametrize(
    ("precision", "counts"),
    [
        ("Q6_K", {"Q6_K": 226}),
        ("Q5_K_M", {"Q5_K": 193, "Q6_K": 33}),
        ("Q5_K_S", {"Q5_K": 225, "Q6_K": 1}),
        ("Q4_K_M", {"Q4_K": 193, "Q6_K": 33}),
        ("Q4_K_S", {"Q4_K": 217, "Q5_K": 8, "Q6_K": 1}),
        ("Q3_K_L", {"Q3_K": 129, "Q5_K": 96, "Q6_K": 1}),
        ("Q3_K_M", {"Q3_K": 129, "Q4_K": 92, "Q5_K": 4, "Q6_K": 1}),
        ("Q3_K_S", {"Q3_K": 225, "Q6_K": 1}),
    ],
)
def test_llama_2_7b_has_the_kinds_that_llama_cpp_lists_for_it(precision: str, counts: dict[str, int]) -> None:
    """The lines "llama_model_loader: - type q4_K: 193 tensors" of the published files."""
    assert matrices(a_model(), precision) == counts


def test_norms_stay_as_they_are() -> None:
    kinds = choose_kinds(a_model(2), "Q4_K_M")
    assert {kind for name, kind in kinds.items() if "norm" in name} == {Kind.F32}


@pytest.mark.parametrize("part", ["ffn_gate_inp", "ssm_conv1d", "shortconv.conv", "attn_rel_b", "laurel_l"])
def test_small_matrices_and_routers_are_never_rounded(part: str) -> None:
    assert choose_kinds(a_model(1, parts=(part,)), "Q4_K_M")[f"blk.0.{part}.weight"] == Kind.F32


@pytest.mark.parametrize(
    ("precision", "width", "kind"),
    [
        ("Q4_K_M", 96, Kind.Q5_0),
        ("Q5_K_M", 96, Kind.Q5_1),
        ("Q6_K", 96, Kind.Q8_0),
        ("Q3_K_M", 96, Kind.Q4_0),
        ("IQ4_XS", 96, Kind.IQ4_NL),
        ("Q4_K_M", 100, Kind.F16),
    ],
)
def test_rows_that_do_not_divide_go_into_smaller_blocks(precision: str, width: int, kind: Kind) -> None:
    file = a_model(32, width=width, parts=("attn_q",))
    assert choose_kinds(file, precision)["blk.9.attn_q.weight"] == kind
    assert choose_kinds(file, precision)["output.weight"] == (Kind.Q8_0 if width == 96 else Kind.F16)


def test_embeddings_that_are_the_head_too_are_kept_like_a_head() -> None:
    assert choose_kinds(a_model(1, head=False), "Q4_K_M")["token_embd.weight"] == Kind.Q6_K
    assert choose_kinds(a_model(1), "Q4_K_M")["token_embd.weight"] == Kind.Q4_K


def test_values_shared_by_many_heads_keep_more_bits() -> None:
    shared = a_model(8, **{"attention.head_count_kv": 8})
    assert choose_kinds(shared, "Q2_K")["blk.3.attn_v.weight"] == Kind.Q4_K
    assert choose_kinds(a_model(8), "Q2_K")["blk.3.attn_v.weight"] == Kind.Q3_K
    assert choose_kinds(shared, "IQ4_XS")["blk.3.attn_v.weight"] == Kind.Q5_K


def test_eight_experts_keep_their_keys_and_values() -> None:
    kinds = choose_kinds(a_model(4, expert_count=8), "Q4_K_M")
    assert {kinds[f"blk.{n}.attn_{part}.weight"] for n in range(4) for part in "kv"} == {Kind.Q8_0}
    assert kinds["blk.0.attn_output.weight"] == Kind.Q5_K


def test_falcon_has_rules_of_its_own() -> None:
    falcon = a_model(32, architecture="falcon", parts=("attn_qkv", "attn_output", "ffn_up", "ffn_down"))
    kinds = choose_kinds(falcon, "Q4_K_M")
    assert (kinds["output.weight"], kinds["blk.0.ffn_down.weight"]) == (Kind.Q8_0, Kind.Q6_K)
    assert (kinds["blk.3.ffn_down.weight"], kinds["blk.5.ffn_down.weight"]) == (Kind.Q5_K, Kind.Q4_K)


def test_an_importance_matrix_makes_four_bits_careful_at_the_beginning() -> None:
    file = a_model(32)
    assert choose_kinds(file, "Q4_0", weighed=True)["blk.0.ffn_down.weight"] == Kind.Q4_1
    assert choose_kinds(file, "Q4_0", weighed=True)["output.weight"] == Kind.Q6_K
    assert choose_kinds(file, "Q4_0")["blk.0.ffn_down.weight"] == Kind.Q4_0
    assert choose_kinds(file, "Q4_0")["output.weight"] == Kind.Q8_0  # as our own writer stores it
    assert choose_kinds(file, "IQ4_XS", weighed=True)["blk.0.ffn_down.weight"] == Kind.IQ4_XS
    assert choose_kinds(file, "IQ4_XS")["blk.0.ffn_down.weight"] == Kind.Q5_K


@pytest.mark.parametrize("precision", sorted(MIXES))
def test_every_mix_gives_every_tensor_a_kind(precision: str) -> None:
    file = a_model(3)
    assert choose_kinds(file, precision).keys() == file.tensors.keys()
