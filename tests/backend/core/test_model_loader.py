from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from backend.core import model_loader, packages
from backend.core.model_loader import adapter_weights, load_adapter, load_base, load_dense, merge_adapter
from backend.core.quantized import Quantization
from backend.errors import ModelError
from backend.training.checkpoint import write_weights
from tests.tiny import ARCHITECTURES, tiny_model, tiny_model_folder

# peft 0.21 asks transformers 5.23 for a name that it has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

IDS = torch.arange(12).reshape(1, 12)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def adapter(tiny_folder: Path, tmp_path: Path) -> Path:
    """A LoRA adapter of the tiny model whose every weight is away from zero."""
    tuned = get_peft_model(load_base(tiny_folder), LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            weight.add_(0.1 * ("lora_" in name))
    tuned.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reshape_weights(path: Path, change: str) -> None:
    weights = load_file(path)
    name = next(iter(weights))
    match change:
        case "missing":
            del weights[name]
        case "unexpected":
            weights["model.extra.weight"] = torch.zeros(2)
        case "another shape":
            weights[name] = torch.zeros(3, 3)
    save_file(weights, path, {"format": "pt"})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_comes_back_as_it_was_saved(tmp_path: Path, architecture: str) -> None:
    folder = tiny_model_folder(tmp_path / "m", architecture=architecture)
    loaded = load_base(str(folder))
    assert torch.equal(logits(loaded), logits(tiny_model(architecture, vocab_size=loaded.config.vocab_size)))
    assert not loaded.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_have_the_dtype_that_was_asked_for(tiny_folder: Path, dtype: torch.dtype) -> None:
    assert {weight.dtype for weight in load_base(tiny_folder, dtype=dtype).parameters()} == {dtype}


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_the_attention_that_was_asked_for_is_used(tiny_folder: Path, name: str) -> None:
    assert load_base(tiny_folder, attn_implementation=name).config._attn_implementation == name


def test_sharded_weights_are_loaded(folder: Path) -> None:
    expected = logits(load_base(folder))
    names = sorted(load_file(folder / "model.safetensors"))
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, members in parts.items():
        weights = load_file(folder / "model.safetensors")
        save_file({name: weights[name] for name in members}, folder / shard, {"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {
        "metadata": {},
        "weight_map": {name: shard for shard, members in parts.items() for name in members},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(logits(load_base(folder)), expected)


def test_loading_says_nothing(tiny_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = transformers_logging.is_progress_bar_enabled()
    load_base(tiny_folder)
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.is_progress_bar_enabled() == shown


def test_threads_that_load_at_once_get_whole_models_and_leave_the_library_as_it_was(
    tiny_folder: Path,
) -> None:
    level = transformers_logging.get_verbosity()
    with ThreadPoolExecutor(6) as pool:
        models = list(pool.map(load_base, [tiny_folder] * 18))
    expected = logits(models[0])
    assert [torch.equal(logits(model), expected) for model in models] == [True] * 18
    assert transformers_logging.get_verbosity() == level


def test_progress_bars_that_were_on_are_on_again(tiny_folder: Path) -> None:
    transformers_logging.enable_progress_bar()
    load_base(tiny_folder)
    assert transformers_logging.is_progress_bar_enabled()


@pytest.mark.parametrize("change", ["missing", "unexpected", "another shape"])
def test_weights_that_do_not_fit_are_never_made_up(folder: Path, change: str) -> None:
    reshape_weights(folder / "model.safetensors", change)
    with pytest.raises(ModelError, match=str(folder)) as caught:
        load_base(folder)
    assert caught.value.code == "weights-do-not-fit"


MASK = torch.ones(8, 8).tril().reshape(1, 1, 8, 8)


@pytest.mark.parametrize(
    ("name", "buffer"),
    [
        ("transformer.h.0.attn.bias", MASK),
        ("h.0.attn.bias", MASK.bool()),
        ("transformer.h.1.attn.causal_mask", MASK[0, 0].bool()),
        ("transformer.h.0.attn.masked_bias", torch.tensor(-1e4)),
    ],
)
def test_buffers_of_older_versions_are_passed_over(tmp_path: Path, name: str, buffer: torch.Tensor) -> None:
    """Published files of GPT-2, GPT-J, GPT-Neo, CodeGen and others hold the causal masks of their time."""
    folder = tiny_model_folder(tmp_path, architecture="gpt2")
    expected = logits(load_base(folder))
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {name: buffer.clone()}, folder / "model.safetensors", {"format": "pt"})
    assert torch.equal(logits(load_base(folder)), expected)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("transformer.h.0.attn.offset", (32,)),
        ("transformer.h.0.attn.weight", (32, 32)),
        ("transformer.h.0.attn.c_attn.extra", (1, 1, 8, 8)),
        ("transformer.h.7.attn.mask", (1, 1, 8, 8)),
        ("transformer.h.0.attn.extra", (1, 2, 8, 8)),
        ("transformer.h.1.attn.scale", (1,)),
        ("logit_scale", ()),
    ],
)
def test_a_weight_that_is_left_over_is_no_buffer(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    folder = tiny_model_folder(tmp_path, architecture="gpt2")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {name: torch.ones(shape)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=name) as caught:
        load_base(folder)
    assert caught.value.code == "weights-do-not-fit"


def test_code_that_is_not_needed_is_neither_run_nor_handed_on(folder: Path, tmp_path: Path) -> None:
    """transformers has a class of its own for the type: the author's is passed over, here and in what is saved."""
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.C"})
    model = load_base(folder)
    model.config.save_pretrained(tmp_path / "saved")
    assert type(model).__module__.startswith("transformers.")
    assert "auto_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("change", [{"hidden_size": 64}, {"num_hidden_layers": 3}, {"vocab_size": 999}])
def test_a_config_of_another_model_is_an_error(folder: Path, change: dict[str, int]) -> None:
    edit(folder / "config.json", **change)
    with pytest.raises(ModelError) as caught:
        load_base(folder)
    assert caught.value.code == "weights-do-not-fit"


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_weights_are_an_error(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=str(folder)) as caught:
        load_base(folder)
    assert caught.value.code == "damaged-weights"


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": "many"},
        {"num_attention_heads": 0},
        {"hidden_act": "no-such"},
        {"rope_parameters": {"rope_type": "no-such"}},
    ],
)
def test_a_config_that_makes_no_sense_is_an_error(folder: Path, change: dict[str, object]) -> None:
    edit(folder / "config.json", **change)
    with pytest.raises(ModelError, match=str(folder)) as caught:
        load_base(folder)
    assert caught.value.code == "model-not-loadable"


def test_an_unsafe_folder_is_not_loaded(folder: Path) -> None:
    edit(folder / "config.json", custom_generate="evil/generate")
    with pytest.raises(ModelError) as caught:
        load_base(folder)
    assert caught.value.code == "remote-code"


def test_no_memory_stays_a_memory_error(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(model_loader.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_base(tiny_folder)


# --- adapters ---------------------------------------------------------------------------------------------


def test_an_adapter_changes_the_model_as_it_did_when_saved(tiny_folder: Path, adapter: Path) -> None:
    ours = load_adapter(load_base(tiny_folder), adapter)
    theirs = PeftModel.from_pretrained(load_base(tiny_folder), adapter).eval()
    assert torch.equal(logits(ours), logits(theirs))
    assert not torch.equal(logits(ours), logits(load_base(tiny_folder)))


@pytest.mark.parametrize("trainable", [True, False])
def test_an_adapter_is_trainable_on_request(tiny_folder: Path, adapter: Path, trainable: bool) -> None:
    model = load_adapter(load_base(tiny_folder), adapter, trainable=trainable)
    moving = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert (bool(moving), all("lora_" in name for name in moving), model.training) == (
        trainable,
        True,
        trainable,
    )


def test_merging_keeps_what_the_model_says(tiny_folder: Path, adapter: Path) -> None:
    tuned = load_adapter(load_base(tiny_folder), adapter)
    expected = logits(tuned)
    merged = merge_adapter(tuned)
    assert torch.allclose(logits(merged), expected, atol=1e-5)
    assert not [name for name, _ in merged.named_parameters() if "lora_" in name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_merging_gives_the_bits_that_peft_gives(
    tiny_folder: Path, dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    def tuned() -> PeftModel:
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], **settings)
        made = get_peft_model(load_base(tiny_folder, dtype=dtype), config)
        for name, weight in made.named_parameters():
            weight.data.add_(0.1 * ("lora_" in name))
        return made

    ours, theirs = merge_adapter(tuned()).state_dict(), tuned().merge_and_unload(safe_merge=True).state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_large_weights_whose_sum_overflows_are_merged(tiny_folder: Path, adapter: Path) -> None:
    base = load_base(tiny_folder)
    base.model.layers[0].self_attn.q_proj.weight.data.fill_(3e38)
    merged = merge_adapter(load_adapter(base, adapter))
    assert merged.model.layers[0].self_attn.q_proj.weight.isfinite().all()


def test_an_adapter_with_nan_is_not_merged(tiny_folder: Path, adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    weights[next(name for name in weights if "lora_B" in name)].fill_(float("nan"))
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError) as caught:
        merge_adapter(load_adapter(load_base(tiny_folder), adapter))
    assert caught.value.code == "adapter-not-finite"


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_half_an_adapter_is_an_error(tiny_folder: Path, adapter: Path, name: str) -> None:
    (adapter / name).unlink()
    with pytest.raises(ModelError, match=str(adapter)) as caught:
        load_adapter(load_base(tiny_folder), adapter)
    assert caught.value.code == "no-adapter"


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"hidden_size": 64}, "size mismatch"),
        ({"num_hidden_layers": 1}, "only one of the two"),
        ({"architecture": "gpt2"}, "q_proj"),
    ],
)
def test_an_adapter_of_another_model_does_not_fit(
    tmp_path: Path, adapter: Path, other: dict[str, Any], why: str
) -> None:
    base = load_base(tiny_model_folder(tmp_path / "other", **other))
    with pytest.raises(ModelError, match=f"(?s){adapter}.*{why}") as caught:
        load_adapter(base, adapter)
    assert caught.value.code == "adapter-does-not-fit"


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens", "q_proj"]])
def test_an_adapter_of_the_ends_is_saved_and_read_alike(tmp_path: Path, targets: list[str]) -> None:
    """Where head and embeddings are apart, each may be trained: saved, read and merged it is what it was."""
    folder = tiny_model_folder(tmp_path / "base", tie_word_embeddings=False)
    trained = get_peft_model(load_base(folder), LoraConfig(r=2, target_modules=targets)).eval()
    with torch.no_grad():
        for weight in adapter_weights(trained).values():
            weight.add_(0.1)
    write_weights(trained, _new(tmp_path / "adapter"))
    again = load_adapter(load_base(folder), tmp_path / "adapter")
    assert torch.equal(logits(again), logits(trained))
    assert not torch.equal(logits(again), logits(load_base(folder)))
    assert torch.allclose(logits(merge_adapter(again)), logits(trained), atol=1e-5)


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings")  # peft says what is wrong and goes on
@pytest.mark.parametrize("ends", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]], ids=str)
def test_two_copies_of_one_matrix_that_were_trained_apart_are_refused(
    tmp_path: Path, ends: list[str]
) -> None:
    settings = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=ends)
    tuned = get_peft_model(tiny_model(), settings)
    for part in tuned.parameters():
        part.data += 0.1 * part.requires_grad
    tuned.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="share their weights") as caught:
        load_adapter(tiny_model(), tmp_path)
    assert caught.value.code == "tied-target"


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_of_one_of_two_tied_ends_is_refused(tmp_path: Path, target: str) -> None:
    folder = tiny_model_folder(tmp_path / "base", tie_word_embeddings=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own, about just this
        trained = get_peft_model(load_base(folder), LoraConfig(r=2, target_modules=[target]))
    write_weights(trained, _new(tmp_path / "adapter"))
    with pytest.raises(ModelError, match="share their weights") as caught:
        load_adapter(load_base(folder), tmp_path / "adapter")
    assert caught.value.code == "tied-target"


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("change", ["missing", "unexpected", "another shape"])
def test_an_adapter_with_other_weights_does_not_fit(tiny_folder: Path, adapter: Path, change: str) -> None:
    reshape_weights(adapter / "adapter_model.safetensors", change)
    with pytest.raises(ModelError) as caught:
        load_adapter(load_base(tiny_folder), adapter)
    assert caught.value.code == "adapter-does-not-fit"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"peft_type": "NEW"}, "adapter-does-not-fit"),
        ({"peft_type": None}, "adapter-does-not-fit"),
        ({"r": -1}, "adapter-does-not-fit"),
        ({"r": "two"}, "adapter-does-not-fit"),
        ({"megatron_config": {"a": 1}}, "remote-code"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "remote-code"),
    ],
)
def test_an_adapter_config_that_makes_no_sense_or_asks_to_run_code_is_an_error(
    tiny_folder: Path, adapter: Path, change: dict[str, object], code: str
) -> None:
    edit(adapter / "adapter_config.json", **change)
    with pytest.raises(ModelError) as caught:
        load_adapter(load_base(tiny_folder), adapter)
    assert caught.value.code == code


@pytest.mark.parametrize("keep", [0, 50])
def test_truncated_adapter_weights_are_an_error(tiny_folder: Path, adapter: Path, keep: int) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=str(adapter)):
        load_adapter(load_base(tiny_folder), adapter)


# --- the real one -----------------------------------------------------------------------------------------


@pytest.mark.model
def test_smollm2_loads_and_answers(smollm2: Path) -> None:
    model = load_base(smollm2, dtype=torch.float32)
    assert model.config.num_hidden_layers == 30
    assert logits(model).isfinite().all()


def test_weights_are_ordinary_tensors_wherever_they_are_loaded(tiny_folder: Path) -> None:
    """Experts under an adapter refuse others, and a server loads in inference mode."""
    with torch.inference_mode():
        model = load_base(tiny_folder)

    assert not any(part.is_inference() for part in model.parameters())


class TestPacked:
    """Bases whose linear weights lie in memory in 4 or 8 bits, and the plain models of the same values."""

    NF4 = Quantization("nf4", nested=True, dtype=torch.float32)
    INT8 = Quantization("int8", nested=False, dtype=torch.float32)

    @pytest.mark.parametrize(("stored", "dtype"), [(NF4, torch.uint8), (INT8, torch.int8)])
    def test_a_plain_model_of_the_same_values_answers_the_same(
        self, tiny_folder: Path, stored: Quantization, dtype: torch.dtype
    ) -> None:
        pytest.importorskip("bitsandbytes")
        packed = load_base(tiny_folder, quantization=stored)
        plain = load_dense(tiny_folder, dtype=torch.float32, quantization=stored)

        assert packed.get_parameter("model.layers.0.mlp.up_proj.weight").dtype == dtype
        assert {part.dtype for part in plain.parameters()} == {torch.float32}
        assert not packed.training
        assert torch.equal(logits(packed), logits(plain))
        assert not torch.equal(logits(packed), logits(load_base(tiny_folder)))

    def test_other_precisions_of_the_plain_model_have_the_same_values(self, tiny_folder: Path) -> None:
        pytest.importorskip("bitsandbytes")
        stored = replace(self.NF4, dtype=torch.bfloat16)
        wide = load_dense(tiny_folder, dtype=torch.float32, quantization=stored)
        narrow = load_dense(tiny_folder, dtype=torch.bfloat16, quantization=stored)

        name = "model.layers.1.self_attn.q_proj.weight"
        assert torch.equal(wide.get_parameter(name), narrow.get_parameter(name).float())

    def test_without_quantization_it_is_the_base_itself(self, tiny_folder: Path) -> None:
        plain = load_dense(tiny_folder, dtype=torch.float32, quantization=None)
        assert torch.equal(logits(plain), logits(load_base(tiny_folder)))

    @pytest.mark.parametrize("load", [load_base, partial(load_dense, dtype=torch.float32)])
    def test_without_the_package_it_is_named(
        self, tiny_folder: Path, load: Callable[..., object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(packages, "find_spec", {}.get)
        with pytest.raises(ModelError, match=r"4 bits \(nf4\), nested needs the package") as caught:
            load(tiny_folder, quantization=self.NF4)
        assert caught.value.code == "needs-bitsandbytes"

    def test_a_missing_weight_is_refused_too(self, folder: Path) -> None:
        pytest.importorskip("bitsandbytes")
        weights = load_file(folder / "model.safetensors")
        del weights["model.layers.0.mlp.up_proj.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError) as caught:
            load_base(folder, quantization=self.NF4)
        assert caught.value.code == "weights-do-not-fit"


class TestImports:
    """peft imports bitsandbytes where it is installed, which would have ``kernels`` download code at once."""

    @pytest.mark.slow
    def test_kernels_is_never_imported(self, tmp_path: Path) -> None:
        (tmp_path / "kernels.py").write_text(
            "raise SystemExit('kernels would download now')", encoding="utf-8"
        )
        path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        code = (
            "import importlib.util, backend.core.model_loader, backend.training.tuning\n"
            "print(importlib.util.find_spec('kernels'))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")
