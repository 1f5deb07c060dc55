from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backend.core import model_folder
from backend.core.model_folder import check_model_folder, model_fingerprint, read_object, refuse_code
from backend.errors import ModelError

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file({"a": torch.zeros(4)}, tmp_path / "model.safetensors")
    return tmp_path


def configure(folder: Path, **changes: object) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))


def code_of(folder: Path) -> str:
    with pytest.raises(ModelError, match=str(folder)) as caught:
        check_model_folder(folder)
    assert caught.value.remedy
    return caught.value.code


def test_a_whole_folder_gives_its_config(folder: Path) -> None:
    assert check_model_folder(folder) == CONFIG


def test_a_real_folder_passes(tiny_folder: Path) -> None:
    assert check_model_folder(tiny_folder)["model_type"] == "llama"


@pytest.mark.parametrize("architectures", [None, []])
def test_the_model_type_alone_is_enough(folder: Path, architectures: object) -> None:
    configure(folder, architectures=architectures)
    assert check_model_folder(folder)["architectures"] == architectures


def test_a_missing_config_is_an_error(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert code_of(folder) == "no-config"


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', '{"a": NaN}', "\xff\xfe"])
def test_a_damaged_config_is_an_error(folder: Path, content: str) -> None:
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    assert code_of(folder) == "damaged-config"


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
        {"model_type": "nobody-knows", "architectures": ["NobodyForCausalLM"]},
        {"model_type": None},
        {"model_type": ["llama"]},
        {"architectures": "LlamaForCausalLM"},
        {"architectures": [None]},
    ],
)
def test_what_is_no_causal_language_model_is_refused(folder: Path, changes: dict[str, object]) -> None:
    configure(folder, **changes)
    assert code_of(folder) == "not-causal"


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "key",
    [
        {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
        {"trust_remote_code": True},
        {"_attn_implementation_internal": "evil/kernel"},
        {"_experts_implementation_internal": "eager"},
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "evil@main"},
        {"use_kernels": True},
        {"hub_kernels": {"a": "b"}},
        {"kernel_config": {"a": "b"}},
        {"custom_generate": "evil/generate"},
        {"text_config": {"deeper": [{"auto_map": {"AutoConfig": "evil.Config"}}]}},
    ],
)
def test_a_folder_that_asks_to_run_code_is_refused(folder: Path, name: str, key: dict[str, object]) -> None:
    (folder / name).write_text(json.dumps(CONFIG | {"model_type": "evil"} | key))
    assert code_of(folder) == "remote-code"


AUTO_MAP = {"auto_map": {"AutoConfig": "evil.C", "AutoTokenizer": ["owner/evil--t.T", None]}}


@pytest.mark.parametrize(
    ("name", "content", "passes"),
    [
        ("config.json", CONFIG, True),
        ("config.json", CONFIG | {"model_type": "evil"}, False),
        ("config.json", CONFIG | {"model_type": "evil", "tokenizer_class": "LlamaTokenizer"}, False),
        ("config.json", CONFIG | {"model_type": ["llama"]}, False),
        ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"}, True),
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}, True),
        ("tokenizer_config.json", {"tokenizer_class": "EvilTokenizer"}, False),
        ("tokenizer_config.json", {"model_type": "llama"}, False),
        ("generation_config.json", {"model_type": "llama"}, False),
    ],
)
def test_an_auto_map_passes_beside_a_type_that_transformers_knows(
    folder: Path, name: str, content: dict[str, object], passes: bool
) -> None:
    (folder / name).write_text(json.dumps(content | AUTO_MAP))
    refused = {True: contextlib.nullcontext(), False: pytest.raises(ModelError, match="auto_map")}
    with refused[passes]:
        refuse_code(folder / name)


@pytest.mark.parametrize(
    "key",
    [
        {"auto_map": None},
        {"trust_remote_code": False},
        {"_attn_implementation": "sdpa"},
        {"conv_kernel": 4},
        {"linear_conv_kernel_dim": 4},
    ],
)
def test_harmless_keys_pass(folder: Path, key: dict[str, object]) -> None:
    configure(folder, **key)
    assert check_model_folder(folder) == CONFIG | key


def test_a_missing_file_asks_for_nothing(tmp_path: Path) -> None:
    assert refuse_code(tmp_path / "none.json") is None


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "a.ckpt", "a.pkl"])
def test_pickled_weights_are_refused_with_a_way_out(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    assert code_of(folder) == "pickled-weights"


def test_safetensors_beside_pickles_pass(folder: Path) -> None:
    (folder / "pytorch_model.bin").touch()
    assert check_model_folder(folder) == CONFIG


def test_missing_weights_are_an_error(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert code_of(folder) == "no-weights"


def shard(folder: Path, index: object) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_sharded_weights_pass(folder: Path) -> None:
    shard(folder, {"weight_map": {"a": "model-1.safetensors"}})
    assert check_model_folder(folder) == CONFIG


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}},
        {"weight_map": {"a": "../model-1.safetensors"}},
        {"weight_map": {}},
        {"weight_map": None},
        {},
    ],
)
def test_a_missing_shard_is_an_error(folder: Path, index: object) -> None:
    shard(folder, index)
    assert code_of(folder) == "missing-shard"


def test_a_damaged_shard_index_is_an_error(folder: Path) -> None:
    shard(folder, [])
    assert code_of(folder) == "damaged-weights"


def test_read_object_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        read_object(tmp_path / "a.json", missing="gone", damaged="bad")
    assert caught.value.code == "gone"


# --- fingerprint ------------------------------------------------------------------------------------------


def test_the_same_content_has_the_same_fingerprint(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = tmp_path_factory.mktemp("copy")
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert model_fingerprint(copy) == model_fingerprint(str(folder))
    assert len(model_fingerprint(copy)) == 32


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_one_changed_byte_changes_the_fingerprint(folder: Path, name: str) -> None:
    before = model_fingerprint(folder)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    assert model_fingerprint(folder) != before


def test_renaming_a_file_changes_the_fingerprint(folder: Path) -> None:
    before = model_fingerprint(folder)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert model_fingerprint(folder) != before


def test_other_files_do_not_count(folder: Path) -> None:
    before = model_fingerprint(folder)
    (folder / "README.md").write_text("hello")
    assert model_fingerprint(folder) == before


def test_large_weights_are_sampled_from_end_to_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": torch.arange(1000)}, folder / "model.safetensors")
    monkeypatch.setattr(model_folder, "_HASH_WHOLE_BYTES", 100)
    monkeypatch.setattr(model_folder, "_HASH_BLOCK_BYTES", 64)
    monkeypatch.setattr(model_folder, "_HASH_BLOCKS", 8)
    before = model_fingerprint(folder)
    weights = folder / "model.safetensors"
    seen = {before}
    for position in (
        10,
        (weights.stat().st_size - 64) * 3 // 7,
        -1,
    ):  # header, a block inside, the last block
        content = bytearray(weights.read_bytes())
        content[position] ^= 1
        weights.write_bytes(content)
        seen.add(model_fingerprint(folder))
    assert len(seen) == 4


def test_an_empty_folder_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        model_fingerprint(tmp_path)
    assert caught.value.code == "no-config"


@pytest.mark.parametrize(
    "stored", [{"quant_method": "bitsandbytes", "load_in_4bit": True}, {"load_in_8bit": True}]
)
def test_weights_that_bitsandbytes_saved_are_refused(folder: Path, stored: dict[str, object]) -> None:
    configure(folder, quantization_config=stored)
    assert code_of(folder) == "packed-weights"


@pytest.mark.parametrize("stored", [None, {}, [], {"quant_method": "mxfp4"}])
def test_other_ways_to_store_weights_are_left_to_transformers(folder: Path, stored: object) -> None:
    configure(folder, quantization_config=stored)
    assert check_model_folder(folder)["quantization_config"] == stored
