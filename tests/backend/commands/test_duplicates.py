"""``tunesmith data duplicates``: backend/commands/duplicates.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.commands.cli import main
from backend.commands.duplicates import SHOWN_ROWS, grouped
from tests.runs import write_rows

LONG = " ".join(f"question {n} about the {n * 37} shelves of our store" for n in range(12))
APART = [{"prompt": f"{n} {n * 7919}", "completion": f"{n * n}!"} for n in range(10)]
ALIKE = [{"prompt": text, "completion": "Meat"} for text in (LONG, f"{LONG} today")]
ROWS = [APART[0], *APART, APART[0], APART[3], *ALIKE]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", ROWS)


def ask(capsys: pytest.CaptureFixture[str], source: Path, *words: str) -> dict[str, Any]:
    assert main(["data", "duplicates", str(source), "--json", *words]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def places(kind: dict[str, Any]) -> list[list[int]]:
    """The lines of every group that is shown."""
    return [[int(row["place"].rpartition(":")[2]) for row in group["rows"]] for group in kind["shown"]]


def test_the_largest_group_comes_first(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ask(capsys, source)
    assert told["rows"] == len(ROWS)
    assert (told["exact"]["groups"], told["exact"]["repeats"]) == (2, 3)
    assert places(told["exact"]) == [[1, 2, 12], [5, 13]]
    assert told["exact"]["shown"][0]["rows"][0]["record"]["messages"][0]["content"] == "0 0"


def test_near_repeats_stand_apart_from_exact_ones(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert places(ask(capsys, source)["near"]) == [[14, 15]]


def test_few_groups_and_few_rows_of_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [*APART, *[APART[0]] * 9, APART[1]])
    told = ask(capsys, source, "--limit", "1")["exact"]
    assert (told["groups"], told["repeats"]) == (2, 10)
    (group,) = told["shown"]
    assert (group["count"], len(group["rows"])) == (10, SHOWN_ROWS)


def test_for_a_person(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "duplicates", str(source)]) == 0
    screen = capsys.readouterr().out
    assert "3 of 15 rows stand more than once." in screen
    assert "1 of 15 rows nearly repeat others." in screen
    assert "rows.jsonl:12" in screen


def test_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "duplicates", str(tmp_path / "nowhere.jsonl")]) == 2
    assert capsys.readouterr().err.startswith("Error")


@given(st.lists(st.integers(0, 4), max_size=30))
def test_every_row_is_in_one_group_or_stands_alone(words: list[int]) -> None:
    """``grouped`` puts together exactly the rows that are equal."""
    later = {n: words.index(word) for n, word in enumerate(words) if words.index(word) != n}
    found = grouped(later)
    together = [[n for n, other in enumerate(words) if other == word] for word in dict.fromkeys(words)]
    assert sorted(found) == sorted(numbers for numbers in together if len(numbers) > 1)
    assert [len(numbers) for numbers in found] == sorted((len(numbers) for numbers in found), reverse=True)
