"""``tunesmith data rows``: backend/commands/rows.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backend.commands.cli import main
from backend.data.load import load_rows
from tests.runs import write_rows

FOODS = [{"question": f"food {n}", "answer": "Meat" if n % 2 else "Fruit"} for n in range(30)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "foods.jsonl", FOODS)


def ask(capsys: pytest.CaptureFixture[str], source: Path, *words: str) -> dict[str, Any]:
    assert main(["data", "rows", str(source), "--json", *words]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def test_a_page_of_records_with_their_places(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ask(capsys, source, "--offset", "10", "--limit", "3")
    assert [row["place"] for row in told["rows"]] == [f"foods.jsonl:{n}" for n in (11, 12, 13)]
    assert told["rows"][0]["cells"] == FOODS[10]
    assert (told["total"], told["matching"]) == (30, 30)


def test_how_they_are_read(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ask(capsys, source)
    assert told["columns"] == ["question", "answer"]
    assert told["roles"] == {"prompt": "question", "completion": "answer"}
    assert told["shape"] == "prompt/completion"
    assert "because" in told["read_as"]


def test_searching_finds_capitals_or_not(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ask(capsys, source, "--text", "mEAT", "--offset", "1", "--limit", "2")
    assert told["matching"] == 15
    assert [row["cells"]["question"] for row in told["rows"]] == ["food 3", "food 5"]
    assert ask(capsys, source, "--text", "nothing like it")["rows"] == []


def test_records_of_no_known_shape_are_shown_with_the_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_rows(tmp_path / "odd.jsonl", [{"frage": "was", "antwort": "das"}])
    told = ask(capsys, source)
    assert told["problem"]["code"] == "unknown-shape"
    assert told["rows"][0]["cells"] == {"frage": "was", "antwort": "das"}
    mapped = ask(capsys, source, "--columns.prompt", "frage", "--columns.completion", "antwort")
    assert mapped["problem"] is None
    assert mapped["roles"] == {"prompt": "frage", "completion": "antwort"}


def test_broken_lines_do_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "broken.jsonl"
    source.write_text('{"prompt": "a", "completion": "b"}\n{broken\n')
    assert ask(capsys, source)["total"] == 1


def test_for_people(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "rows", str(source), "--limit", "1"]) == 0
    told = capsys.readouterr().out
    assert "foods.jsonl:1" in told
    assert "30 of 30 records." in told


def test_a_source_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "rows", str(tmp_path / "nothing.jsonl"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"]


def test_a_folder_is_read_as_it_will_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": "t"}] * 250)
    write_rows(tmp_path / "b.jsonl", [{"prompt": "p", "completion": "c"}] * 200)
    write_rows(tmp_path / "c.jsonl", [{"prompt": "p", "completion": "c"}] * 200)
    found = ask(capsys, tmp_path)
    assert found["read_as"] == load_rows(tmp_path, max_rejected_share=1.0).reason
    assert found["columns"] == ["text", "prompt", "completion"]


@pytest.mark.parametrize(
    ("part", "first", "count"), [("[:10%]", 1, 3), ("[10:20]", 11, 10), ("[90%:]", 28, 3)]
)
def test_a_slice_is_taken_as_in_training(
    source: Path, part: str, first: int, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with source.open("a") as stream:
        stream.write('{"question": "no answer"}\n{broken\n')
    told = ask(capsys, Path(f"{source}{part}"))
    assert (told["total"], told["rows"][0]["place"]) == (count, f"foods.jsonl:{first}")
    assert told["total"] == len(load_rows(f"{source}{part}", max_rejected_share=1.0).rows)


def test_records_that_cannot_be_read_are_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes("question,answer\nWhat?,That\nWie?,Müsli\n".encode("cp1252"))
    assert main(["data", "rows", str(table)]) == 0
    said = capsys.readouterr().out
    assert "1 of 1 records.\n1 more record cannot be read: t.csv:3: the byte 0xFC" in said
    told = ask(capsys, table)
    assert (told["unreadable"], told["unreadable_examples"][0]["place"]) == (1, "t.csv:3")
