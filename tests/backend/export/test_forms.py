"""The forms a model leaves in: backend/export/forms.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from backend.core.gguf.file import read_gguf
from backend.core.model_loader import load_base
from backend.errors import ExportError
from backend.export import converter, quantizer
from backend.export.forms import Target, check_form, choose_precision, write_form
from backend.export.quantizer import PROGRAM
from backend.export.trained import load_trained, model_weights
from tests.backend.export.conftest import Asked
from tests.backend.export.results import finished
from tests.tiny import quiet_transformers


@pytest.mark.parametrize(
    ("target", "precision"),
    [
        ("adapter", "float32"),
        ("lora-gguf", "F32"),
        ("merged", "float16"),
        ("gguf", "Q4_0"),
        ("ollama", "Q4_0"),
        ("onnx", "float32"),
    ],
)
def test_the_precision_is_the_one_of_the_form(target: str, precision: str) -> None:
    assert choose_precision(target, "float16", "Q4_0") == precision


@pytest.mark.parametrize(
    ("target", "code"), [("tarball", "bad-target"), ("merged", "bad-precision"), ("gguf", "bad-precision")]
)
def test_what_does_not_exist_is_refused(target: str, code: str) -> None:
    with pytest.raises(ExportError) as caught:
        choose_precision(target, "int3", "Q3_9")
    assert caught.value.code == code


def test_a_k_quant_without_its_program_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(quantizer.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ExportError, match=PROGRAM):
        choose_precision("gguf", "float32", "Q4_K_M")


@pytest.mark.parametrize(
    ("target", "quantization", "named"),
    [
        ("merged", "Q4_K_M", "merged"),
        ("lora-gguf", "Q4_K_M", "Q4_K_M"),
        ("gguf", "Q8_0", "Q8_0"),
        ("gguf", "F16", "F16"),
    ],
)
def test_an_importance_matrix_that_does_nothing_is_refused(
    target: str, quantization: str, named: str
) -> None:
    with pytest.raises(ExportError, match=f"does nothing for {named}") as caught:
        choose_precision(target, "float16", quantization, imatrix=True)
    assert caught.value.code == "no-imatrix"


@pytest.mark.parametrize("target", ["adapter", "lora-gguf"])
def test_a_full_run_has_no_adapter(target: Target, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        check_form(load_trained(finished(tmp_path, method="full")), target)
    assert caught.value.code == "no-adapter"


@pytest.mark.parametrize("target", ["gguf", "ollama"])
def test_a_family_that_our_writer_does_not_know_needs_llama_cpps_converter(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(converter.VARIABLE, str(tmp_path))
    trained = load_trained(finished(tmp_path, architecture="gpt2", method="full"))
    check_form(trained, "merged")
    with pytest.raises(ExportError) as caught:
        check_form(trained, target)
    assert caught.value.code == "no-converter"
    assert "pip install" in caught.value.remedy


def write(asked: Asked, target: Target, precision: str, folder: Path, shard: str = "5GB") -> Path:
    return write_form(asked.fresh(), target, precision, folder, max_shard_size=shard)[0]


def test_an_adapter_is_the_runs_own_and_names_no_place_on_this_machine(llama: Asked, tmp_path: Path) -> None:
    write(llama, "adapter", "float32", tmp_path)
    weights = "adapter_model.safetensors"
    assert (tmp_path / weights).read_bytes() == (llama.trained.result / weights).read_bytes()
    named = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (named["base_model_name_or_path"], named["inference_mode"]) == (None, True)
    assert str(llama.trained.base) not in (tmp_path / "adapter_config.json").read_text()
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"tokenizer.json", "chat_template.jinja", "generation_config.json"}
    assert "manifest.json" not in names


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_merged_model_is_rounded_once(dtype: str, llama: Asked, tmp_path: Path) -> None:
    write(llama, "merged", dtype, tmp_path)
    stored, exact = load_file(tmp_path / "model.safetensors"), model_weights(llama.fresh().merge())
    assert stored.keys() == exact.keys()
    assert all(torch.equal(stored[name], exact[name].to(getattr(torch, dtype))) for name in exact)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == dtype


def test_what_leaves_is_read_by_older_readers_too(llama: Asked, tmp_path: Path) -> None:
    """Not only what is exported: the run's own result as well."""
    write(llama, "merged", "bfloat16", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["rope_theta"], config["rope_scaling"], config["torch_dtype"]) == (1e4, None, "bfloat16")
    for folder in (tmp_path, llama.trained.result):
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert not settings.keys() & {"is_local", "local_files_only"}


def test_a_large_model_comes_in_shards(llama: Asked, tmp_path: Path) -> None:
    write(llama, "merged", "float32", tmp_path, shard="60KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    again, exact = load_base(tmp_path).state_dict(), llama.fresh().merge().state_dict()
    assert all(torch.equal(again[name], exact[name]) for name in exact)


def test_a_gguf_file_is_named_and_alone(llama: Asked, tmp_path: Path) -> None:
    file = write(llama, "gguf", "Q8_0", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-Q8_0.gguf"]
    assert read_gguf(file).metadata["tokenizer.chat_template"] == llama.trained.tokenizer.chat_template


def test_a_modelfile_lies_beside_its_gguf(llama: Asked, tmp_path: Path) -> None:
    write(llama, "ollama", "F16", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny-F16.gguf", "Modelfile"}
    assert "FROM ./tiny-F16.gguf" in (tmp_path / "Modelfile").read_text()


@pytest.mark.parametrize(
    ("context", "longest", "asked"), [(512, 1024, 512), (131_072, 1024, 4096), (131_072, 9000, 9004)]
)
def test_ollama_reserves_what_training_used_and_not_the_whole_context(
    context: int, longest: int, asked: int, llama: Asked, tmp_path: Path
) -> None:
    trained = llama.fresh()
    trained.model.config.max_position_embeddings = context
    data = trained.config.data.model_copy(update={"max_length": longest})
    trained = replace(trained, config=trained.config.model_copy(update={"data": data}))
    write_form(trained, "ollama", "F32", tmp_path, max_shard_size="5GB")
    assert f"PARAMETER num_ctx {asked}\n" in (tmp_path / "Modelfile").read_text()


def test_k_quants_are_made_from_a_float_file(
    llama: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantizer.importlib.util, "find_spec", lambda _: None)
    program = tmp_path / PROGRAM
    program.write_text('#!/bin/sh\ncp "$1" "$2"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "out").mkdir()
    file = write(llama, "gguf", "Q4_K_M", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny-Q4_K_M.gguf"]
    assert read_gguf(file).tensors["blk.0.ffn_up.weight"].kind.name == "F32"


BOTH_ENDS = ["embed_tokens", "lm_head"]
ONLY_MERGED: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "ends": {"target_modules": ["q_proj"], "modules_to_save": BOTH_ENDS, "ensure_weight_tying": True},
    "ends that drift apart": {"target_modules": ["q_proj"], "modules_to_save": BOTH_ENDS},
    "head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "norm": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 300]},
}
"""Adapters without a plain form, by peft's names."""


ONE_END = ("ends that drift apart", "head")
"""Those that part embeddings and head: where they share one matrix, such an adapter is refused when it is loaded."""


@pytest.mark.parametrize(
    ("name", "tied"),
    [(name, tied) for name in ONLY_MERGED for tied in (True, False) if not (tied and name in ONE_END)],
)
def test_what_matrices_cannot_hold_is_in_the_merged_model(name: str, tied: bool, tmp_path: Path) -> None:
    """Transformers reads it back as the trained model, also where training parted head and embeddings."""
    trained = load_trained(finished(tmp_path, lora=ONLY_MERGED[name], tie_word_embeddings=tied))
    ids = torch.arange(300, 340)[None]
    wanted = trained.model(ids).logits
    (tmp_path / "out").mkdir()
    write_form(trained, "merged", "float32", tmp_path / "out", max_shard_size="5GB")
    with quiet_transformers():
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.allclose(again(ids).logits, wanted, atol=1e-4)
    base = load_base(trained.base)
    assert not torch.allclose(base(ids).logits, wanted, atol=1e-2)


@pytest.mark.parametrize("lora", ONLY_MERGED.values(), ids=ONLY_MERGED)
@pytest.mark.parametrize("target", ["adapter", "lora-gguf"])
def test_an_adapter_that_others_cannot_read_is_refused_and_its_merged_forms_are_not(
    target: Target, lora: dict[str, Any], tmp_path: Path
) -> None:
    trained = load_trained(finished(tmp_path, lora=lora, tie_word_embeddings=False))
    check_form(trained, "merged")
    check_form(trained, "gguf")
    with pytest.raises(ExportError, match=r"trained with \w+\. .+`to=merged` or `to=gguf`") as caught:
        check_form(trained, target)
    assert caught.value.code == "merged-only"
