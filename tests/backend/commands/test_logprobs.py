"""``tunesmith data logprobs``: backend/commands/logprobs.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.commands.cli import main
from tests.runs import learner_folder, write_rows


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learner_folder(tmp_path_factory.mktemp("learner"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--k", "401"], "the likeliest 401 of them were asked for"),
        (["--k", "0"], "the likeliest 0 of them"),
        (["--temperature", "0"], "The temperature 0 is not"),
        (["--max-length", "8"], "longer than 8 tokens"),
    ],
)
def test_what_the_command_cannot_write_is_one_sentence(
    tmp_path: Path, learner: Path, rows: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    out = tmp_path / "t.safetensors"
    assert main(["data", "logprobs", str(rows), "--teacher", str(learner), "--out", str(out), *words]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_as_json(tmp_path: Path, learner: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.safetensors"
    words = ["--teacher", str(learner), "--out", str(out), "--k", "2", "--json"]
    assert main(["data", "logprobs", str(rows), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["k"], found["out"]) == (2, str(out))


def test_a_file_that_is_there_stays_as_it_is(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t.safetensors"
    out.write_text("mine")
    assert main(["data", "logprobs", str(rows), "--teacher", "smollm2-135m", "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert out.read_text() == "mine"
