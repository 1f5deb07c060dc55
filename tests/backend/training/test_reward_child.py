"""The process of a reward function: what it reads and writes, line by line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from backend.training.reward_child import answer, load, serve


def test_it_answers_each_line_until_there_are_no_more(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def f(completions, **rest): return [len(each) / 2 for each in completions]\n", encoding="utf-8"
    )
    requests = io.StringIO('{"completions": ["a", ""]}\n{"completions": 3}\n')
    replies = io.StringIO()
    serve(file, "f", requests, replies)
    ready, values, error = map(json.loads, replies.getvalue().splitlines())
    assert (ready, values) == ({"ready": True}, {"values": [0.5, 0.0]})
    assert error["error"].startswith("TypeError")


def test_what_cannot_be_loaded_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit(2)\n", encoding="utf-8")
    replies = io.StringIO()
    serve(tmp_path / "mine.py", "f", io.StringIO("{}\n"), replies)
    assert json.loads(replies.getvalue()) == {"error": "SystemExit: 2"}


def test_values_become_numbers_and_none_stays() -> None:
    assert answer(lambda **_: (True, None, 2), {}) == {"values": [1.0, None, 2.0]}


@pytest.mark.parametrize("name", ["none", "VALUE"])
def test_a_name_that_is_no_function_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.py").write_text("VALUE = 3\n", encoding="utf-8")
    with pytest.raises(ImportError, match=f"no function {name}"):
        load(tmp_path / "mine.py", name)
