"""The example in one click: app/example.py."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from app.example import example_config
from backend.errors import ConfigError


def test_its_files_are_there_wherever_one_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = example_config()
    assert Path(config.data.train).is_file()
    assert Path(str(config.data.validation)).is_file()
    assert config.name == "food-category"


def test_its_files_are_pinned_as_they_are() -> None:
    data = example_config().data
    files = [Path(data.train), Path(str(data.validation))]
    assert data.sha256 == {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_data_that_is_no_file_is_left_to_the_trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESMITH__DATA__TRAIN", str(tmp_path))
    assert list(example_config().data.sha256) == [str(example_config().data.validation)]


def test_the_environment_has_its_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH__TRAINING__MAX_STEPS", "7")
    monkeypatch.setenv("TUNESMITH__DATA__VALIDATION", "0.5")
    assert example_config().training.max_steps == 7
    assert example_config().data.validation == 0.5


def test_a_wrong_setting_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH__TRAINING__MAX_STEPS", "many")
    with pytest.raises(ConfigError, match=r"training\.max_steps"):
        example_config()
