"""A run means the same from anywhere: backend/config_paths.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.config import RunConfig, parse_config
from backend.config_paths import with_absolute_paths


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def absolute(**sections: dict[str, Any]) -> RunConfig:
    return with_absolute_paths(parse_config({"data": {"train": "rows.jsonl"}} | sections))


def test_paths_of_data_and_paraphrases(tmp_path: Path) -> None:
    config = absolute(
        data={"train": "rows.jsonl", "validation": "~/held.csv"}, augmentation={"paraphrases": "review.jsonl"}
    )
    assert config.data.train == str(tmp_path / "rows.jsonl")
    assert config.data.validation == str(tmp_path / "held.csv")
    assert config.augmentation.paraphrases == str(tmp_path / "review.jsonl")


def test_what_is_no_path_stays(tmp_path: Path) -> None:
    config = absolute(data={"train": "hf://owner/name"})
    assert (config.data.train, config.data.validation) == ("hf://owner/name", 0.1)
    assert config.augmentation.paraphrases == ""
    assert config == with_absolute_paths(config)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("mine", "{home}/mine"),
        ("~/mine", "{home}/mine"),
        ("org/model", "org/model"),
        ("~no-such-person/model", "~no-such-person/model"),
    ],
)
def test_a_model_is_a_folder_where_there_is_one(given: str, kept: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    config = absolute(model={"model_name_or_path": given})
    assert config.model.model_name_or_path == kept.format(home=tmp_path)


def test_an_alias_is_one_even_beside_a_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "smollm2-135m").mkdir()
    config = absolute(model={"model_name_or_path": "smollm2-135m"})
    assert config.model.model_name_or_path == "smollm2-135m"
