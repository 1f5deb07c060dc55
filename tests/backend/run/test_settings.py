"""A run means the same from anywhere: backend/run/settings.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.errors import ModelError
from backend.run.config import LONGEST_TEMPLATE, RunConfig, parse_config
from backend.run.settings import template_text, with_absolute_paths


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


JINJA = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize("given", ["my.jinja", "~/my.jinja", "./my.jinja"])
def test_a_template_file_is_kept_as_its_text(given: str, tmp_path: Path) -> None:
    (tmp_path / "my.jinja").write_text(JINJA)
    config = absolute(model={"chat_template": given})
    (tmp_path / "my.jinja").write_text("edited")
    assert config.model.chat_template == JINJA
    assert with_absolute_paths(config) == config


@pytest.mark.parametrize("setting", ["chatml", "no-thinking", JINJA])
def test_a_named_template_and_jinja_itself_stay(setting: str) -> None:
    assert template_text(setting) == setting


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"no template in here", "bad-template"),
        (b"\xff\xfe\xff", "unknown-template"),
        (JINJA.encode() + b" " * LONGEST_TEMPLATE, "bad-template"),
    ],
)
def test_a_template_file_that_cannot_be_kept_is_refused(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        template_text(str(path))
    assert caught.value.code == code


def test_a_template_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match=r"nowhere\.jinja") as caught:
        absolute(model={"chat_template": "nowhere.jinja"})
    assert caught.value.code == "unknown-template"
