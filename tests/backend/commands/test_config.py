"""The settings for machines and for people: backend/commands/config.py."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from backend.commands.cli import main
from backend.run.config import commented_yaml, config_schema
from backend.run.settings import parse_config
from backend.utils.config_utils import parse_yaml
from tests.runs import tree


def test_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == config_schema()


def test_a_file_to_start_from_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "init"]) == 0
    printed = capsys.readouterr().out
    assert printed == commented_yaml()
    assert parse_config(parse_yaml(printed, where="x")).data.train == "rows.jsonl"


def test_a_file_to_start_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    assert main(["config", "init", str(path)]) == 0
    assert tree(tmp_path) == {"run.yaml": commented_yaml().encode()}
    assert f"tunesmith train {path}" in capsys.readouterr().out


def test_a_place_with_blanks_is_quoted_where_it_is_to_be_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my settings.yaml"
    assert main(["config", "init", str(path)]) == 0
    assert f"tunesmith train '{path}'" in capsys.readouterr().out


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("mine")
    assert main(["config", "init", str(path)]) == 2
    assert tree(tmp_path) == {"run.yaml": b"mine"}
    assert capsys.readouterr().err == f"Error: {path}: exists already. Choose another name.\n"


@pytest.mark.parametrize("name", ["nowhere/run.yaml", "file/run.yaml", "x" * 300])
def test_a_place_that_cannot_be_written(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["config", "init", str(tmp_path / name)]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert tree(tmp_path) == {"file": b"mine"}


def test_a_full_disk_leaves_no_half(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # else what is compiled now is cut as well
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        code = main(["config", "init", str(tmp_path / "run.yaml")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert "File too large" in capsys.readouterr().err
    assert tree(tmp_path) == {}
