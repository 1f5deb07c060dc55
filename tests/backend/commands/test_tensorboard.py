"""A real TensorBoard server from the command line: backend/commands/tensorboard.py."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.cli import main
from backend.manager.tensorboard_manager import TensorBoardManager


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    TensorBoardManager(tmp_path / "runs").stop()


def record(capsys: pytest.CaptureFixture[str], word: str) -> Any:
    assert main(["tensorboard", word, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_life(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tensorboard", "start"]) == 0
    url, how_to_stop = capsys.readouterr().out.splitlines()
    assert how_to_stop.endswith("tunesmith tensorboard stop")
    with urllib.request.urlopen(f"{url}data/environment", timeout=5) as answer:  # noqa: S310  ours
        assert json.load(answer)["data_location"] == str(Path("runs").absolute())
    assert record(capsys, "start")["url"] == url
    assert main(["tensorboard", "url"]) == 0
    assert capsys.readouterr().out == f"{url}\n"
    assert record(capsys, "stop") == {"stopped": True}
    assert record(capsys, "stop") == {"stopped": False}


def test_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tensorboard", "url", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "not-running"
    assert main(["tensorboard", "stop"]) == 0
    assert "No TensorBoard ran over runs." in capsys.readouterr().out
