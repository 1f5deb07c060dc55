"""A look inside on the screen: backend/commands/look.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backend.commands.cli import main
from backend.commands.look import print_look
from backend.run.folder import RunDir


def _token(token_id: int, text: str, probability: float) -> dict[str, Any]:
    top = [{"id": 9, "text": "\x1b[31mred", "probability": 0.25}]
    return {"id": token_id, "text": text, "probability": probability, "top": top}


PROMPT = {"text": "<s>hi\n", "tokens": [1, 2, 3]}
MEAT = {"text": "meat", "tokens": [_token(5, "me", 0.5), _token(9, "at", 0.75)]}
ME = {"text": "me", "tokens": [_token(5, "me", 0.5)]}
PLACE = {"base_logprob": 0.0, "kl": 0.125}
BOTH = {"prompt": PROMPT, "tuned": MEAT, "base": ME, "divergence": [PLACE] * 2, "mean_kl": 0.125}


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_two_answers_and_where_they_part(capsys: pytest.CaptureFixture[str]) -> None:
    print_look({**BOTH, "first_difference": 1})
    said = capsys.readouterr().out
    assert "Prompt, 3 tokens:\n<s>hi↵\n" in said
    assert "They part at token 1: 'at' (tuned), the end (base)." in said
    assert "│ me    │ 50.0% │ 100.0% │ 0.125" in said
    assert "\x1b" not in said


def test_two_that_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    print_look({**BOTH, "first_difference": None})
    assert "Both say the same." in capsys.readouterr().out


def test_one_answer(capsys: pytest.CaptureFixture[str]) -> None:
    print_look({"prompt": PROMPT, "answer": MEAT})
    said = capsys.readouterr().out
    assert "│ 1 │ at    │ 75.0%" in said
    assert "·[31mred 25.0%" in said


def test_at_the_command_line(trained: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["infer", str(trained.path), "--tokens", "--max-new-tokens", "4"]
    assert main([*words, "--prompt", "food pork", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tuned"]["text"] == "meat"
    assert main([*words, "--file", "a.txt", "--out", "b"]) == 2
    assert "--tokens" in capsys.readouterr().err
