"""GGUF files: backend/export/gguf_writer.py, read back by our import and by the gguf package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from backend.core.gguf.convert import convert_gguf
from backend.core.gguf.file import read_gguf
from backend.core.model_loader import load_base
from backend.core.tokenizer import load_tokenizer
from backend.errors import ExportError
from backend.export.gguf_vocab import read_vocabulary
from backend.export.gguf_writer import FILE_TYPES, check_model, write_gguf, write_lora_gguf
from backend.export.plain import PlainLora
from backend.export.trained import model_weights
from tests.tiny import Architecture, Family, tiny_model_folder

SHAPES: list[tuple[Architecture, Family, dict[str, Any]]] = [
    ("llama", "chatml", {}),
    (
        "llama",
        "llama3",
        {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True, "head_dim": 16},
    ),
    ("qwen2", "qwen3", {"tie_word_embeddings": False}),
    ("qwen3", "qwen3", {"num_key_value_heads": 4}),
]


def write(folder: Path, target: Path, quantization: str) -> None:
    model, tokenizer = load_base(folder), load_tokenizer(folder)
    words = read_vocabulary(tokenizer, folder, rows=model.config.vocab_size, eos_token_ids=None)
    write_gguf(target, model.config, model_weights(model), words, quantization=quantization, name="tiny")


@pytest.mark.parametrize(("architecture", "family", "overrides"), SHAPES)
def test_f32_comes_back_bit_for_bit(
    architecture: Architecture, family: Family, overrides: dict[str, Any], tmp_path: Path
) -> None:
    folder = tiny_model_folder(tmp_path / "model", family=family, architecture=architecture, **overrides)
    write(folder, tmp_path / "x.gguf", "F32")
    convert_gguf(tmp_path / "x.gguf", tmp_path / "back")
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("quantization", FILE_TYPES)
def test_every_precision_is_written_as_it_is_called(
    quantization: str, tiny_folder: Path, tmp_path: Path
) -> None:
    write(tiny_folder, tmp_path / "x.gguf", quantization)
    file = read_gguf(tmp_path / "x.gguf")
    assert file.metadata["general.file_type"] == FILE_TYPES[quantization]
    assert file.metadata["general.size_label"] == "31K"
    assert file.tensors["blk.0.ffn_up.weight"].kind.name == quantization
    assert file.tensors["blk.0.attn_norm.weight"].kind.name == "F32"
    trained = load_file(tiny_folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].numpy()
    stored = file.tensors["blk.0.ffn_up.weight"]
    off = np.linalg.norm(dequantize(stored.rows, stored.kind) - trained) / np.linalg.norm(trained)
    assert off < {"F32": 1e-9, "F16": 1e-3, "BF16": 1e-2, "Q8_0": 0.02}.get(quantization, 0.15)


@pytest.mark.parametrize(
    ("quantization", "head"), [("Q4_0", "Q8_0"), ("Q5_1", "Q8_0"), ("Q8_0", "Q8_0"), ("F16", "F16")]
)
def test_the_head_is_no_coarser_than_q8_0(
    quantization: str, head: str, tiny_folder: Path, tmp_path: Path
) -> None:
    write(tiny_folder, tmp_path / "x.gguf", quantization)
    assert read_gguf(tmp_path / "x.gguf").tensors["token_embd.weight"].kind.name == head


def test_embeddings_that_are_not_the_head_are_as_coarse_as_asked(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "model", tie_word_embeddings=False)
    write(folder, tmp_path / "x.gguf", "Q4_0")
    kinds = {name: tensor.kind.name for name, tensor in read_gguf(tmp_path / "x.gguf").tensors.items()}
    assert (kinds["token_embd.weight"], kinds["output.weight"]) == ("Q4_0", "Q8_0")


def test_rows_that_do_not_fill_a_block_stay_f16(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "model", intermediate_size=48)
    write(folder, tmp_path / "x.gguf", "Q8_0")
    kinds = {name: tensor.kind.name for name, tensor in read_gguf(tmp_path / "x.gguf").tensors.items()}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


def test_the_settings_are_the_models(tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 123_456.0}
    folder = tiny_model_folder(tmp_path / "model", rope_parameters=rope, rms_norm_eps=1e-5)
    write(folder, tmp_path / "x.gguf", "F16")
    facts = read_gguf(tmp_path / "x.gguf").metadata
    expected = {
        "llama.block_count": 2, "llama.context_length": 512, "llama.embedding_length": 32,
        "llama.feed_forward_length": 64, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 8, "llama.rope.dimension_count": 8, "llama.rope.freq_base": 123_456.0,
    }  # fmt: skip
    assert {key: facts[key] for key in expected} == expected
    assert facts["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)


def test_llama3_frequencies_are_those_of_transformers(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    }  # fmt: skip
    folder = tiny_model_folder(tmp_path / "model", rope_parameters=rope)
    write(folder, tmp_path / "x.gguf", "F32")
    (stored,) = (t for t in GGUFReader(tmp_path / "x.gguf").tensors if t.name == "rope_freqs.weight")
    config = LlamaConfig.from_pretrained(folder)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / (10_000.0 ** (torch.arange(0, 8, 2) / 8))
    assert torch.allclose(plain / torch.tensor(np.array(stored.data)), scaled, rtol=1e-5)


def test_scaled_positions_are_written(tmp_path: Path) -> None:
    linear = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}
    write(tiny_model_folder(tmp_path / "a", rope_parameters=linear), tmp_path / "a.gguf", "F32")
    facts = read_gguf(tmp_path / "a.gguf").metadata
    assert (facts["llama.rope.scaling.type"], facts["llama.rope.scaling.factor"]) == ("linear", 2.0)
    yarn = linear | {"rope_type": "yarn", "original_max_position_embeddings": 256}
    write(tiny_model_folder(tmp_path / "b", rope_parameters=yarn), tmp_path / "b.gguf", "F32")
    facts = read_gguf(tmp_path / "b.gguf").metadata
    assert (facts["llama.rope.scaling.type"], facts["llama.rope.scaling.factor"]) == ("yarn", 2.0)
    assert facts["llama.rope.scaling.original_context_length"] == 256


ROPE = {"rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("config", "message", "code"),
    [
        (
            LlamaConfig(rope_parameters=ROPE | {"rope_type": "dynamic"}),
            r"positions scaled by dynamic\.",
            "unsupported-positions",
        ),
        (
            LlamaConfig(rope_parameters=ROPE | {"rope_type": "yarn", "beta_fast": 16}),
            r"positions scaled by yarn with beta_fast\.",
            "unsupported-positions",
        ),
        (
            Qwen2Config(use_sliding_window=True, sliding_window=8, max_window_layers=1),
            "sliding-window attention",
            "unsupported-positions",
        ),
        (LlamaConfig(hidden_act="gelu"), "this model has gelu", "unsupported-architecture"),
        (Qwen3Config(attention_bias=True), "attention_bias", "unsupported-architecture"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    config: PretrainedConfig, message: str, code: str
) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        check_model(config)
    assert caught.value.code == code


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "model", architecture="gpt2")
    with pytest.raises(ExportError, match="gpt2") as caught:
        write(folder, tmp_path / "x.gguf", "F32")
    assert caught.value.code == "unsupported-architecture"


def test_a_weight_without_a_name_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load_base(tiny_folder), load_tokenizer(tiny_folder)
    words = read_vocabulary(tokenizer, tiny_folder, rows=model.config.vocab_size, eos_token_ids=None)
    weights = model_weights(model) | {"model.odd.weight": torch.zeros(2, 2)}
    with pytest.raises(ExportError, match=r"model\.odd\.weight"):
        write_gguf(tmp_path / "x.gguf", model.config, weights, words, quantization="F32", name="x")


LORA_A, LORA_B = torch.arange(4 * 32.0).reshape(4, 32), torch.arange(32 * 4.0).reshape(32, 4)
WEIGHTS = {
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": LORA_A,
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": LORA_B,
}
ADAPTER = PlainLora({"peft_type": "LORA", "r": 4, "lora_alpha": 8}, WEIGHTS)
ONE_LAYER = LlamaConfig(num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, hidden_size=32)


class TestLora:
    def test_names_scale_and_order(self, tmp_path: Path) -> None:
        write_lora_gguf(tmp_path / "l.gguf", ONE_LAYER, ADAPTER)
        file = read_gguf(tmp_path / "l.gguf")
        assert (file.metadata["general.type"], file.metadata["adapter.type"]) == ("adapter", "lora")
        assert file.metadata["adapter.lora.alpha"] == 8.0
        rows = {name: tensor.rows.view(np.float32) for name, tensor in file.tensors.items()}
        assert np.array_equal(rows["blk.0.attn_q.weight.lora_a"], LORA_A.numpy())
        first_head = LORA_B[[0, 4, 1, 5, 2, 6, 3, 7]]  # its two halves interleaved
        assert np.array_equal(rows["blk.0.attn_q.weight.lora_b"][:8], first_head.numpy())

    def test_embeddings_are_looked_up_in_rows_of_a(self, tmp_path: Path) -> None:
        layer, a, b = "base_model.model.model.embed_tokens", torch.rand(4, 50), torch.rand(32, 4)
        update = {f"{layer}.lora_embedding_A": a, f"{layer}.lora_embedding_B": b}
        write_lora_gguf(tmp_path / "l.gguf", ONE_LAYER, replace(ADAPTER, weights=update))
        rows = {
            name: part.rows.view(np.float32) for name, part in read_gguf(tmp_path / "l.gguf").tensors.items()
        }
        assert np.array_equal(rows["token_embd.weight.lora_a"], a.T.numpy())
        assert np.array_equal(rows["token_embd.weight.lora_b"], b.numpy())

    def test_a_module_without_a_name_is_refused(self, tmp_path: Path) -> None:
        odd = {"base_model.model.model.odd.lora_A.weight": torch.zeros(4, 32)}
        with pytest.raises(ExportError, match=r"model\.odd\.lora_A") as caught:
            write_lora_gguf(tmp_path / "l.gguf", LlamaConfig(), replace(ADAPTER, weights=odd))
        assert caught.value.code == "unsupported-adapter"


def test_the_alignment_is_the_one_of_the_format(tiny_folder: Path, tmp_path: Path) -> None:
    write(tiny_folder, tmp_path / "x.gguf", "Q4_0")
    offsets = [tensor.data_offset for tensor in GGUFReader(tmp_path / "x.gguf").tensors]
    assert all(offset % gguf.GGUF_DEFAULT_ALIGNMENT == 0 for offset in offsets)


def test_the_tokenizer_is_named_with_all_its_ends(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "model", family="llama3")
    write(folder, tmp_path / "x.gguf", "F32")
    facts, tokens = read_gguf(tmp_path / "x.gguf").metadata, load_tokenizer(folder).get_vocab()
    expected = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.eos_token_id": tokens["<|end_of_text|>"],
        "tokenizer.ggml.eot_token_id": tokens["<|eot_id|>"],
        "tokenizer.ggml.bos_token_id": tokens["<|begin_of_text|>"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }
    assert {key: facts[key] for key in expected} == expected
