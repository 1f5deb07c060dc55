"""What lies in an export: backend/export/contents.py. Whole faults are planted in tests/integration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from backend.core.model_files import write_config, write_generation_config, write_tokenizer
from backend.export import contents
from backend.export.forms import write_form
from backend.export.rounding import LARGEST_ERRORS
from backend.export.trained import Trained, greedy_rules, model_weights
from tests.backend.export.conftest import Asked
from tests.backend.export.harm import edit_json, rewrite
from tests.tiny import quiet_transformers, tiny_tokenizer

UP = "model.layers.0.mlp.up_proj.weight"
GATE = "model.layers.0.mlp.gate_proj.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def merged(llama: Asked, tmp_path: Path) -> tuple[Path, Trained]:
    trained = llama.fresh()
    return write_form(trained, "merged", "float32", tmp_path, max_shard_size="5GB")[0], trained


def problems(merged: tuple[Path, Trained], **options: Any) -> list[str]:
    folder, trained = merged
    model = trained.merge()
    wanted = (model.config, model_weights(model), trained.tokenizer, trained.end_ids)
    return contents.check_folder(folder, *wanted, stored=torch.float32, base=trained.base, **options)


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file({name: values.contiguous() for name, values in weights.items()}, folder / "model.safetensors")


def test_equal_is_nothing_to_say(merged: tuple[Path, Trained]) -> None:
    assert problems(merged) == []


def halves(weights: dict[str, Any]) -> None:
    weights[QUERY] = weights[QUERY].reshape(4, 2, 4, 32).transpose(1, 2).reshape(32, 32)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda w: w.update({UP: w[UP] * 0.5}), f"{UP} is 0.5 times the trained weight"),
        (lambda w: w.update({UP: w[GATE].clone()}), f"{UP} holds the values of {GATE}"),
        (lambda w: w.update({UP: w[UP].T.clone()}), f"{UP} has the shape [32, 64] instead of [64, 32]"),
        (lambda w: w.pop(UP), f"the weight {UP} is missing"),
        (lambda w: w.update({"odd.weight": w[UP].clone()}), "the weight odd.weight does not belong there"),
        (lambda w: w[UP].view(-1)[3].add_(1e-3), f"{UP} differs from the trained weight by"),
        (halves, f"{QUERY} has its rows in another order: its heads are permuted"),
    ],
)
def test_each_way_of_being_wrong_is_told(
    edit: Callable[[dict[str, Any]], object], said: str, merged: tuple[Path, Trained]
) -> None:
    change(merged[0], edit)
    (problem,) = problems(merged)
    assert problem.startswith(said)


def test_a_layer_without_its_adapter_is_known(merged: tuple[Path, Trained]) -> None:
    before = load_file(merged[1].base / "model.safetensors")[UP]
    change(merged[0], lambda weights: weights.update({UP: before}))
    assert problems(merged) == [f"{UP} holds the base model's values: the adapter was not merged into it"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_key_value_heads": 4}, "num_key_value_heads is 4, but 2 in the trained model"),
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps is 0.001"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
            "rope_parameters.rope_theta is 500000, but 10000",
        ),
    ],
)
def test_a_wrong_setting_is_told(settings: dict[str, Any], said: str, merged: tuple[Path, Trained]) -> None:
    edit_json(merged[0] / "config.json", **settings)
    assert any(problem.startswith(said) for problem in problems(merged))


SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2}),
        ("gpt_neox", SMALL),
        ("gemma3_text", SMALL | {"num_key_value_heads": 2, "head_dim": 8}),
        ("mixtral", SMALL | {"num_key_value_heads": 2, "num_local_experts": 2}),
    ],
)
def test_families_that_are_stored_otherwise_are_compared_too(
    kind: str, sizes: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer("base")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, vocab_size=len(tokenizer)))
    tokenizer.pad_token = tokenizer.eos_token
    with quiet_transformers():
        model.save_pretrained(tmp_path)
    write_config(model.config, tmp_path, dtype="float32")
    write_generation_config(greedy_rules(tokenizer, {tokenizer.eos_token_id}), tmp_path)
    write_tokenizer(tokenizer, tmp_path)
    weights = model_weights(model)
    wanted = (tokenizer, {tokenizer.eos_token_id})
    assert contents.check_folder(tmp_path, model.config, weights, *wanted, stored=torch.float32) == []
    name = next(iter(weights))
    other = weights | {name: weights[name] + 1}
    (problem,) = contents.check_folder(tmp_path, model.config, other, *wanted, stored=torch.float32)
    assert problem.startswith(name)


def test_rounding_is_no_difference_where_it_was_meant(llama: Asked, tmp_path: Path) -> None:
    trained = llama.fresh()
    folder, _ = write_form(trained, "merged", "bfloat16", tmp_path, max_shard_size="5GB")
    model = trained.merge()
    wanted = (model.config, model_weights(model), trained.tokenizer, trained.end_ids)
    assert contents.check_folder(folder, *wanted, stored=torch.bfloat16) == []
    assert len(contents.check_folder(folder, *wanted, stored=torch.float16)) > 3


@pytest.mark.parametrize("quantization", ["F16", "Q8_0", "Q4_0", "Q5_1"])
def test_a_gguf_file_holds_the_rounded_weights_exactly(
    quantization: str, llama: Asked, tmp_path: Path
) -> None:
    trained = llama.fresh()
    file, _ = write_form(trained, "gguf", quantization, tmp_path, max_shard_size="5GB")
    model = trained.merge()
    wanted = (model.config, model_weights(model), trained.tokenizer, trained.end_ids)
    assert contents.check_gguf(file, tmp_path / "a", *wanted) == []
    off = {**wanted[1], UP: wanted[1][UP] * 1.5}
    (problem,) = contents.check_gguf(file, tmp_path / "b", wanted[0], off, *wanted[2:])
    assert problem.startswith(f"{UP} is 0.66")


def test_an_adapter_gguf_is_compared_weight_by_weight(llama: Asked, learned: Asked, tmp_path: Path) -> None:
    file, _ = write_form(llama.trained, "lora-gguf", "F32", tmp_path, max_shard_size="5GB")
    assert contents.check_lora(file, llama.trained.plain(), llama.trained.model.config) == []
    assert len(contents.check_lora(file, learned.trained.plain(), llama.trained.model.config)) > 3


def test_an_adapter_without_a_weight_is_told(llama: Asked, tmp_path: Path) -> None:
    folder, _ = write_form(llama.trained, "adapter", "float32", tmp_path, max_shard_size="5GB")
    weights = load_file(folder / "adapter_model.safetensors")
    name = sorted(weights)[0]
    save_file(
        {other: values for other, values in weights.items() if other != name},
        folder / "adapter_model.safetensors",
    )
    trained = llama.trained
    assert contents.check_adapter(
        folder, trained.plain(), trained.tokenizer, trained.end_ids, naming=trained.naming
    ) == [f"the weight {name} is missing"]


@pytest.mark.parametrize("kind", ["Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"])
def test_k_quants_are_as_near_as_llama_cpp_comes(kind: str) -> None:
    """Four rows of a weight and what llama.cpp's ``llama_model_quantize`` made of them, kept in a file."""
    kept = np.load(Path(__file__).with_name("k_quants.npz"))
    stored = GGMLQuantizationType[kind]
    values, trained = dequantize(kept[kind], stored), kept["trained"]
    off = np.linalg.norm(values - trained) / np.linalg.norm(trained)
    assert contents.is_rounded(values, trained, stored)
    assert LARGEST_ERRORS[kind] / 2 < off < LARGEST_ERRORS[kind] * 0.7
    assert not contents.is_rounded(np.roll(values, 1, axis=0), trained, stored)
    assert not contents.is_rounded(values * 2, trained, stored)


def test_what_llama_cpp_wrote_need_not_be_rounded_as_we_would() -> None:
    trained = np.load(Path(__file__).with_name("k_quants.npz"))["trained"]
    coarse = dequantize(quantize(trained, GGMLQuantizationType.Q5_0), GGMLQuantizationType.Q5_0) * 1.001
    assert not contents.is_rounded(coarse, trained, GGMLQuantizationType.Q5_0)
    assert contents.is_rounded(coarse, trained, GGMLQuantizationType.Q5_0, ours=False)
    assert not contents.is_rounded(trained * 1.001, trained, GGMLQuantizationType.F32, ours=False)


@pytest.mark.parametrize("end", ["lm_head", "model.embed_tokens"])
def test_an_update_in_a_matrix_that_head_and_embeddings_share_is_wrong(
    end: str, llama: Asked, qwen2: Asked, tmp_path: Path
) -> None:
    """Merged it changes both, and no reader gets what was trained; where each has its own it is right."""
    stored = load_file(llama.trained.result / "adapter_model.safetensors")
    update = {f"base_model.model.{end}.lora_{side}.weight": torch.ones(4, 4) for side in "AB"}
    save_file(stored | update, tmp_path / "adapter_model.safetensors")
    tied, own = (asked.fresh().merge() for asked in (llama, qwen2))
    (said,) = contents.check_shared_ends(tied, tmp_path)
    assert said.startswith(f"the adapter's update of {end} is in both head and embeddings")
    assert list(contents.check_shared_ends(own, tmp_path)) == []
    assert list(contents.check_shared_ends(tied, llama.trained.result)) == []


def test_rows_of_an_adapter_gguf_in_another_order_are_told(llama: Asked, tmp_path: Path) -> None:
    file, _ = write_form(llama.trained, "lora-gguf", "F32", tmp_path, max_shard_size="5GB")
    name = "blk.0.attn_q.weight.lora_b"
    rewrite(file, tensors=lambda found: found.update({name: found[name][::-1].copy()}))
    told = contents.check_lora(file, llama.trained.plain(), llama.trained.model.config)
    assert told == [f"{name} differs from the trained adapter"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"revision": "main"}, ["adapter_config.json has revision main, not None"]),
        ({"r": 5}, ["adapter_config.json has r 5, not 4"]),
        ({"foo": 1}, []),
    ],
)
def test_an_adapters_settings_are_compared_as_a_whole(
    change: dict[str, Any], said: list[str], llama: Asked, tmp_path: Path
) -> None:
    trained = llama.trained
    folder, _ = write_form(trained, "adapter", "float32", tmp_path, max_shard_size="5GB")
    words = (trained.tokenizer, trained.end_ids)
    assert contents.unknown_in_adapter(folder, trained.plain(), *words) == []
    edit_json(folder / "adapter_config.json", **change)
    assert contents.check_adapter(folder, trained.plain(), *words, naming=trained.naming) == said
    unknown = contents.unknown_in_adapter(folder, trained.plain(), *words)
    assert unknown == [f"adapter_config.json has the key {key}" for key in change if key == "foo"]
