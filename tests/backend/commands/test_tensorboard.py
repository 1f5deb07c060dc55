"""A real TensorBoard server and event files at the command line: backend/commands/tensorboard.py."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.commands.cli import main
from backend.manager.tensorboard_manager import TensorBoardManager
from tests.backend.manager.test_event_files import point, points


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


class TestCurves:
    @pytest.fixture
    def logs(self, tmp_path: Path) -> Path:
        """What another program logged: a curve, a single point, and a file with a damaged stretch."""
        folder = tmp_path / "logs" / "a"
        folder.mkdir(parents=True)
        whole = points(1, 9)
        (folder / "events.out.tfevents.1.host").write_bytes(whole + point(1, 2.0, "eval/loss"))
        (folder / "events.out.tfevents.2.host").write_bytes(bytes(60) + whole)
        return tmp_path / "logs"

    def test_they_are_drawn_with_what_could_not_be_read(
        self, logs: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["tensorboard", "curves", str(logs)]) == 0
        screen = capsys.readouterr().out
        assert "eval/loss: 1 points, last 2 at step 1" in screen
        assert "loss: 9 points, last 1.125 at step 9" in screen
        assert "1.125┤" in screen
        assert "events.out.tfevents.2.host: " in screen

    def test_every_point_for_machines_and_only_those_asked_for(
        self, logs: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["tensorboard", "curves", str(logs), "--tag", "eval", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["curves"] == {"eval/loss": [[1, 2.0]]}
        assert list(told["notes"]) == ["events.out.tfevents.2.host"]

    @pytest.mark.parametrize(
        ("words", "remedy"), [(["--tag", "x"], "There are: eval/loss, loss."), ([], "event files")]
    )
    def test_there_is_none_to_draw(
        self, logs: Path, words: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = {True: logs, False: logs / "none"}[bool(words)]
        assert main(["tensorboard", "curves", str(folder), *words]) == 2
        told = capsys.readouterr().err
        assert f"{folder} has no curve" in told
        assert remedy in told
