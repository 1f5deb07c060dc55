"""``tunesmith data answers``: backend/commands/answers.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.commands.cli import main

LINES = [
    {"place": "r:1", "prompt": "2+2", "expected": "4", "answer": "4"},
    {"place": "r:2", "prompt": "3+3", "expected": "6", "answer": "7"},
    {"place": "r:3", "prompt": "4+4", "expected": "8", "error": "too long"},
]


@pytest.fixture
def given(tmp_path: Path) -> Path:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


@pytest.mark.parametrize(
    ("keep", "rows", "method"), [("right", 1, "sft"), ("wrong", 1, "dpo"), ("all", 2, "kto")]
)
def test_rows_are_written_and_what_to_do_with_them_is_said(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: str, rows: int, method: str
) -> None:
    out = tmp_path / "rows.jsonl"
    assert main(["data", "answers", str(given), "--keep", keep, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert len(out.read_text().splitlines()) == rows
    assert f"{rows} rows from 2 answers; 1 questions had none." in said
    assert f"--objective.method {method}" in said


def test_as_json(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.jsonl"
    assert main(["data", "answers", str(given), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"answers": 2, "unanswered": 1, "rows": 1, "out": str(out), "method": "dpo"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--matching", "["], "no regular expression"),
        (["--matching", "x"], "None of the 2 answers"),
        ([], "exists already"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_nothing_is_written(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    out = {True: tmp_path / "rows.jsonl", False: given}[bool(words)]
    before = given.read_bytes()
    assert main(["data", "answers", str(given), "--keep", "right", "--out", str(out), *words]) == 2
    assert told in capsys.readouterr().err
    assert (given.read_bytes(), (tmp_path / "rows.jsonl").exists()) == (before, False)
