"""What a model may be called and where it lies: backend/run/model_names.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backend.errors import ConfigError
from backend.run.model_names import (
    HUB_ID,
    MODEL_ALIASES,
    cache_folder,
    cached_models,
    converted_name,
    local_folder,
)


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
    assert [cache_folder("tokens"), cache_folder("tfds")] == [cache.parent / "tokens", cache.parent / "tfds"]
    monkeypatch.delenv("TUNESMITH_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "tunesmith" / "models"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNESMITH_CACHE", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda text: text)
    with pytest.raises(ConfigError, match="TUNESMITH_CACHE: is not set, and this user has no home folder"):
        cache_folder()


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


def fetched(cache: Path, name: str) -> Path:
    """A model in the Hub's cache."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123")
    return with_config(repository / "snapshots" / "0123")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_hub_model_lies_in_the_hub_cache(hub: Path) -> None:
    assert local_folder("someone/model") is None
    folder = fetched(hub, "someone/model")
    assert local_folder("someone/model") == folder


def test_the_models_in_the_hub_cache(hub: Path) -> None:
    assert cached_models() == []
    for name in ("gpt2", "someone/model", "no/hub--id"):
        fetched(hub, name)
    (hub / "models--half--fetched").mkdir()
    (hub / "datasets--someone--rows").mkdir()
    assert cached_models() == ["gpt2", "someone/model"]


def test_a_name_that_the_hub_would_never_give_is_nowhere(hub: Path) -> None:
    assert local_folder("no--hub-id") is None
    assert local_folder("so/no..hub") is None
