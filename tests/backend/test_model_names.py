"""What a model may be called and where it lies: backend/model_names.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.model_names import HUB_ID, MODEL_ALIASES, cache_folder, converted_name, local_folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    return tmp_path / "models"


def with_config(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_every_alias_says_what_a_person_wants_to_know() -> None:
    assert all(HUB_ID.match(one.hub_id) and one.licence for one in MODEL_ALIASES.values())
    assert all(one.parameters > 10**8 and one.distribution for one in MODEL_ALIASES.values())


def test_the_cache_is_where_the_variable_says(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("TUNESMITH_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "tunesmith" / "models"


def test_an_alias_lies_in_the_cache_once_it_is_converted(cache: Path) -> None:
    assert local_folder("smollm2-135m") is None
    folder = with_config(cache / converted_name("smollm2-135m"))
    assert local_folder("smollm2-135m") == folder
    assert local_folder("smollm2-135m", revision="main") is None


def test_a_folder_is_itself_when_it_holds_a_model(tmp_path: Path) -> None:
    folder = with_config(tmp_path / "model")
    assert local_folder(str(folder)) == folder
    assert local_folder(str(tmp_path)) is None
    assert local_folder(str(tmp_path / "nowhere")) is None


def test_a_hub_model_lies_in_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert local_folder("someone/model") is None
    repository = tmp_path / "models--someone--model"
    snapshot = with_config(repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    assert local_folder("someone/model") == snapshot
