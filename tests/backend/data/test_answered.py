"""Training rows from a model's answers: backend/data/answered.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from backend.data.answered import Answered, Keep, read_answers, training_rows
from backend.data.load import load_rows
from backend.errors import DataError

TURNS = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
LINES: list[dict[str, Any]] = [
    {"place": "r:1", "prompt": [{"role": "user", "content": "2+2"}], "expected": "4", "answer": " 4\n"},
    {"place": "r:2", "prompt": "3+3", "expected": "6", "answer": "7"},
    {"place": "r:3", "prompt": TURNS, "expected": "", "answer": "free"},
    {"place": "r:4", "prompt": "5+5", "expected": "10", "error": "too long"},
    {"place": "r:5", "prompt": "6+6", "expected": "12", "answer": "  "},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def test_answers_are_read_with_their_places_and_the_others_counted(path: Path) -> None:
    answers, unanswered = read_answers(path)
    assert [each.place for each in answers] == ["r:1", "r:2", "r:3"]
    assert unanswered == 2


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x1e", "\r"])
def test_texts_with_line_separators_of_their_own_are_one_line(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "a.jsonl"
    line = {"prompt": f"a{mark}b", "expected": "x", "answer": f"c{mark}d"}
    path.write_bytes((json.dumps(line, ensure_ascii=False) + "\n").encode())
    assert [each.answer for each in read_answers(path)[0]] == [f"c{mark}d"]


def test_lines_of_windows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes((json.dumps(LINES[1]) + "\r\n").encode() * 2)
    assert len(read_answers(path)[0]) == 2


@pytest.mark.parametrize("text", ["nonsense", "[]", "3", '{"answer": "x"}', "null"])
def test_a_line_that_is_no_answer_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(LINES[0]) + "\n" + text + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2 has no prompt and answer") as caught:
        read_answers(path)
    assert caught.value.code == "no-answers"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.jsonl"
    [path.write_bytes(each) for each in (content,) if each is not None]
    with pytest.raises(DataError, match=r"a\.jsonl cannot be read"):
        read_answers(path)


EXPECTED: dict[Keep, list[dict[str, Any]]] = {
    "right": [{"prompt": "2+2", "completion": " 4\n", "source": "r:1"}],
    "wrong": [{"prompt": "3+3", "chosen": "6", "rejected": "7", "source": "r:2"}],
    "all": [
        {"prompt": "2+2", "completion": " 4\n", "label": True, "source": "r:1"},
        {"prompt": "3+3", "completion": "7", "label": False, "source": "r:2"},
        {"prompt": TURNS, "completion": "free", "label": False, "source": "r:3"},
    ],
}


@pytest.mark.parametrize("keep", EXPECTED)
def test_rows_of_each_kind(path: Path, keep: Keep) -> None:
    assert list(training_rows(read_answers(path)[0], keep)) == EXPECTED[keep]


@pytest.mark.parametrize(("keep", "kind"), [("right", "chat"), ("wrong", "preference"), ("all", "judged")])
def test_what_is_written_reads_back_as_the_kind_that_it_is(
    path: Path, tmp_path: Path, keep: Keep, kind: str
) -> None:
    out = tmp_path / "rows.jsonl"
    rows = training_rows(read_answers(path)[0], keep)
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert {row.kind for row in load_rows(out).rows} == {kind}


def test_a_pattern_judges_answers_that_have_no_expected_one(path: Path) -> None:
    answers, _ = read_answers(path)
    kept = training_rows(answers, "right", re.compile(r"[a-z]+"))
    assert [row["source"] for row in kept] == ["r:3"]
    wrong = training_rows(answers, "wrong", re.compile(r"[a-z]+"))
    assert [row["source"] for row in wrong] == ["r:1", "r:2"]


def test_a_thinking_block_is_no_part_of_an_answer() -> None:
    assert Answered("r:1", "q", "4", "<think>so</think> 4").is_right(None)
