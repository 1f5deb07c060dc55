from __future__ import annotations

import json
import multiprocessing
import os
import secrets
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.core.gguf import convert
from backend.core.gguf.convert import convert_gguf
from backend.core.model_loader import load_base
from backend.core.tokenizer import encode_messages, load_tokenizer
from backend.errors import ModelError
from backend.export import readers
from backend.export.panel import ODD_TEXTS, Answer, Panel, PanelRow
from backend.export.readers import read_back
from tests.backend.core.tiny_gguf import dequantised, tiny_gguf
from tests.tiny import quiet_transformers, tiny_model, tiny_tokenizer

KINDS = [
    GGMLQuantizationType.F32,
    GGMLQuantizationType.F16,
    GGMLQuantizationType.Q8_0,
    GGMLQuantizationType.Q4_1,
]
TEXTS = [
    "Hello, world!  12\n\n1. one",
    "déjà <|im_end|> 漢字 🎉",
    "  a\tb\n",
    "",
    "<|im_start|>user\nHi<|im_end|>",
]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


def converted(tmp_path: Path, *arguments: object, **options: object) -> tuple[Path, object]:
    model = tiny_gguf(tmp_path / "a.gguf", *arguments, **options)
    convert_gguf(tmp_path / "a.gguf", tmp_path / "out")
    return tmp_path / "out", model


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_weights_are_those_of_the_model_it_was_made_from(
    tmp_path: Path, architecture: str, kind: GGMLQuantizationType
) -> None:
    folder, model = converted(tmp_path, architecture, quantisation=kind)
    expected = dequantised(model, kind)
    del expected["lm_head.weight"]
    assert same(weights(folder), expected)


def test_an_output_matrix_of_its_own_is_kept(tmp_path: Path) -> None:
    folder, model = converted(tmp_path, tie_word_embeddings=False)
    assert same(weights(folder), model.state_dict())
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False


def test_large_tensors_are_written_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "_CHUNK_VALUES", 100)
    folder, model = converted(tmp_path, tie_word_embeddings=False)
    assert same(weights(folder), model.state_dict())


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_the_loaded_model_computes_what_the_original_does(tmp_path: Path, architecture: str) -> None:
    folder, model = converted(tmp_path, architecture)
    ids = torch.arange(40).reshape(1, 40)
    with torch.no_grad():
        assert torch.equal(load_base(folder, dtype=torch.float32)(ids).logits, model(ids).logits)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])  # transformers loses the head size of this qwen3
def test_equal_to_transformers_own_reading(tmp_path: Path, architecture: str) -> None:
    folder, _ = converted(tmp_path, architecture, quantisation=GGMLQuantizationType.Q4_1)
    with quiet_transformers():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="a.gguf", dtype=torch.float32)
    ours = load_base(folder, dtype=torch.float32)
    assert same(ours.state_dict(), theirs.state_dict())
    keys = (
        "rope_parameters",
        "rms_norm_eps",
        "max_position_embeddings",
        "eos_token_id",
        "pad_token_id",
        "vocab_size",
    )
    assert [getattr(ours.config, key) for key in keys] == [getattr(theirs.config, key) for key in keys]


@pytest.mark.parametrize("rule", ["qwen2", "llama-bpe", "gpt-2"])  # smollm's digits it does not know
def test_the_tokenizer_is_equal_to_transformers_own_reading(tmp_path: Path, rule: str) -> None:
    folder, _ = converted(tmp_path, metadata={"tokenizer.ggml.pre": rule})
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(tmp_path, gguf_file="a.gguf")
    assert [ours(text)["input_ids"] for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]
    assert (ours.chat_template, ours.get_vocab()) == (theirs.chat_template, theirs.get_vocab())
    assert (ours.eos_token, ours.pad_token, ours.bos_token) == (
        theirs.eos_token,
        theirs.pad_token,
        theirs.bos_token,
    )
    assert list(ours.added_tokens_decoder) == list(theirs.added_tokens_decoder)


def test_the_tokenizer_renders_like_the_one_it_was_made_from(tmp_path: Path) -> None:
    folder, _ = converted(tmp_path)
    assert encode_messages(load_tokenizer(folder), CHAT) == encode_messages(tiny_tokenizer("qwen3"), CHAT)


def test_generation_config_holds_the_special_ids(tmp_path: Path) -> None:
    folder, _ = converted(tmp_path)
    assert json.loads((folder / "generation_config.json").read_text()) == {
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def test_config_names_class_positions_and_special_ids(tmp_path: Path) -> None:
    positions = {"rope_type": "default", "rope_theta": 500_000.0}
    folder, model = converted(
        tmp_path, rope_parameters=positions, metadata={"tokenizer.ggml.bos_token_id": 1}
    )
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["rope_parameters"] == positions
    assert config["bos_token_id"] == 1
    assert config["hidden_act"] == model.config.hidden_act


@pytest.mark.parametrize(
    ("metadata", "positions"),
    [
        ({"scaling.type": "linear", "scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),  # as llama.cpp takes it
        ({"scaling.type": "none", "scaling.factor": 4.0}, {"rope_type": "default"}),
        (
            {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 128},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        ),
    ],
)
def test_scaled_positions_are_read(
    metadata: dict[str, object], positions: dict[str, object], tmp_path: Path
) -> None:
    keys = {f"llama.rope.{key}": value for key, value in metadata.items()}
    folder, _ = converted(tmp_path, metadata=keys)
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_parameters"] == positions | {"rope_theta": 10_000.0}


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip
WIDE = {"hidden_size": 128, "head_dim": 32, "max_position_embeddings": 131_072}


def test_the_positions_of_llama_3_are_read_from_their_tensor(tmp_path: Path) -> None:
    """The rule is found from the factors it makes, and the model computes the same beyond its first context."""
    model = tiny_model("llama", vocab_size=8, rope_parameters=LLAMA3, **WIDE)
    factors = convert.llama3_factors(model.config).numpy()
    assert (factors.min(), factors.max()) == (1.0, 32.0)
    sizes = {f"llama.{key}": 32 for key in ("rope.dimension_count", "attention.key_length")}
    folder, made = converted(
        tmp_path, metadata=sizes, rope_parameters=LLAMA3, more={"rope_freqs.weight": factors}, **WIDE
    )
    again = load_base(folder)
    assert again.config.rope_parameters == LLAMA3
    ids, far = torch.arange(6)[None], torch.tensor([[0, 1, 2, 50_000, 50_001, 50_002]])
    with torch.no_grad():
        assert torch.equal(
            again(ids, position_ids=far, attention_mask=torch.ones_like(ids)).logits,
            made(ids, position_ids=far, attention_mask=torch.ones_like(ids)).logits,
        )


@pytest.mark.parametrize("factors", [[1.0, 2.0, 3.0, 4.0], [1.0, 1.0]])
def test_positions_of_no_known_rule_are_refused(factors: list[float], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no rule of positions") as caught:
        converted(tmp_path, more={"rope_freqs.weight": np.array(factors, np.float32)})
    assert caught.value.code == "unsupported-gguf"


def test_an_unreadable_quantisation_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise NotImplementedError("Dequantization for Q9_9 is not yet implemented")

    monkeypatch.setattr(convert, "dequantize", unknown)
    with pytest.raises(ModelError, match="Q9_9") as caught:
        converted(tmp_path)
    assert caught.value.code == "unsupported-gguf"


def test_a_file_without_template_gives_a_folder_without_one(tmp_path: Path) -> None:
    folder, _ = converted(tmp_path, metadata={"tokenizer.chat_template": None})
    assert not (folder / "chat_template.jinja").exists()
    assert load_tokenizer(folder).chat_template is None


# --- refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"metadata": {"llama.expert_count": 4}},
        {"metadata": {"llama.rope.scaling.type": "yarn"}},
        {"metadata": {"llama.rope.scaling.type": "longrope"}},
        {"metadata": {"llama.rope.dimension_count": 4}},
        {"metadata": {"llama.attention.value_length": 4}},
        {"metadata": {"llama.vocab_size": 5}},
        {"metadata": {"llama.attention.sliding_window": 16}},
        {"metadata": {"llama.logit_scale": 0.5}},
        {"metadata": {"llama.embedding_length": None}},
        {"metadata": {"llama.embedding_length": "many"}},
        {"metadata": {"llama.embedding_length": 64}},
        {"metadata": {"llama.context_length": "long"}},
        {"metadata": {"llama.attention.layer_norm_rms_epsilon": [1, 2]}},
        {"metadata": {"llama.attention.head_count": 0}},
        {"metadata": {"llama.attention.head_count_kv": 3}},
        {"metadata": {"llama.block_count": 1}},
        {"metadata": {"llama.block_count": 2_000_000_000}},
        {"metadata": {"tokenizer.ggml.tokens": ["a", "b"]}},
        {"metadata": {"tokenizer.ggml.tokens": None}},
        {"metadata": {"tokenizer.ggml.merges": ["no such"]}},
        {"metadata": {"tokenizer.ggml.merges": [1, 2]}},
        {"metadata": {"tokenizer.ggml.token_type": [3] * 5000}},
        {"metadata": {"tokenizer.ggml.eos_token_id": 5000}},
        {"rename": {"blk.0.attn_q.weight": "blk.0.attn_qkv.weight"}},
        {"rename": {"blk.1.attn_norm.weight": "rope_freqs.weight"}},
        {"rename": {"blk.1.attn_norm.weight": "blk.7.attn_norm.weight"}},
        {"rename": {"blk.1.attn_norm.weight": "blk.1.attn_q.bias"}},
    ],
)
def test_a_file_that_does_not_add_up_is_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=r"a\.gguf") as caught:
        converted(tmp_path, **options)
    assert caught.value.code == "unsupported-gguf"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("entry", [{"tokenizer.ggml.pre": "deepseek-llm"}, {"tokenizer.ggml.model": "llama"}])
def test_an_unknown_tokenizer_is_refused(tmp_path: Path, entry: dict[str, str]) -> None:
    with pytest.raises(ModelError) as caught:
        converted(tmp_path, metadata=entry)
    assert caught.value.code == "unsupported-tokenizer"


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "a.gguf")
    content = (tmp_path / "a.gguf").read_bytes().replace(b"llama", b"mamba")
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(ModelError, match="mamba") as caught:
        convert_gguf(tmp_path / "a.gguf", tmp_path / "out")
    assert caught.value.code == "unsupported-gguf"


@pytest.mark.parametrize("content", [b"", b"garbage", b"GGUF\x03\0\0\0"])
def test_a_damaged_file_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        convert_gguf(tmp_path / "a.gguf", tmp_path / "cache" / "out")
    assert caught.value.code == "damaged-gguf"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".out.lock"]


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "a.gguf")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="TUNESMITH_CACHE") as caught:
        convert_gguf(tmp_path / "a.gguf", tmp_path / "file" / "out")
    assert caught.value.code == "cache-not-writable"


# --- never half -------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    tiny_gguf(tmp_path / "a.gguf")
    monkeypatch.setattr(convert, "_write_weights", full)
    with pytest.raises(ModelError, match="No space left"):
        convert_gguf(tmp_path / "a.gguf", tmp_path / "cache" / "out")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".out.lock"]


def test_an_existing_folder_is_left_as_it_is(tmp_path: Path) -> None:
    folder, _ = converted(tmp_path)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "a.gguf").write_bytes(b"changed")
    convert_gguf(tmp_path / "a.gguf", folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_leftovers_of_a_killed_conversion_are_swept(tmp_path: Path) -> None:
    stale = tmp_path / f".out.{'a' * 16}.tmp"
    stale.mkdir()
    os.utime(stale, (0, 0))
    converted(tmp_path)
    assert not stale.exists()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_two_processes_at_once_both_succeed(tmp_path: Path) -> None:
    model = tiny_gguf(tmp_path / "a.gguf", tie_word_embeddings=False)
    context = multiprocessing.get_context("fork")
    arguments = (tmp_path / "a.gguf", tmp_path / "cache" / "out")
    workers = [context.Process(target=convert_gguf, args=arguments) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert same(weights(tmp_path / "cache" / "out"), model.state_dict())
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".out.lock", "out"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(4, 3000), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_header_never_ends_in_another_error(
    tmp_path: Path, original: Path, position: int, bit: int
) -> None:
    content = bytearray(original.read_bytes())
    content[position] ^= 1 << bit
    (tmp_path / "a.gguf").write_bytes(content)
    assert outcome(tmp_path) in {"converted", "damaged-gguf", "unsupported-gguf", "unsupported-tokenizer"}


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    tiny_gguf(path)
    return path


def outcome(folder: Path) -> str:
    try:
        convert_gguf(folder / "a.gguf", folder / secrets.token_hex(4))
    except ModelError as error:
        return error.code
    return "converted"


# --- the real one -----------------------------------------------------------------------------------------


@pytest.mark.model
def test_smollm2_is_what_its_file_holds(smollm2: Path, smollm2_gguf: Path) -> None:
    stored = {tensor.name: tensor for tensor in GGUFReader(smollm2_gguf).tensors}
    pairs = [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.29.ffn_down.weight", "model.layers.29.mlp.down_proj.weight"),
        ("blk.7.attn_norm.weight", "model.layers.7.input_layernorm.weight"),
    ]
    values = {part: dequantize(stored[part].data, stored[part].tensor_type) for part, _ in pairs}
    with safe_open(smollm2 / "model.safetensors", "np") as loaded:
        assert all(np.array_equal(values[part], loaded.get_tensor(name)) for part, name in pairs)


@pytest.mark.model
def test_smollm2_reads_texts_as_llama_cpp_does(
    smollm2: Path, smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digits stand alone, and white space before them is whole: transformers' reading of the file is not so."""
    ours = load_tokenizer(smollm2)
    texts = [*filter(None, TEXTS), *ODD_TEXTS, Path(__file__).read_text()[:2000]]
    expected = [ours.encode(text, add_special_tokens=False) for text in texts]
    monkeypatch.setattr(readers, "ODD_TEXTS", texts)
    whole = Panel([PanelRow("", None, texts[0], None, "", expected[0])], [], 1)
    reading = read_back("llama_cpp", smollm2_gguf, whole, [Answer([1], ended=False, text="")])
    assert reading.texts == expected
    assert reading.rows[0]["prompt_ids"] == expected[0]
