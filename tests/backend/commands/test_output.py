"""What every command prints with: backend/commands/output.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backend.commands.output import error_record, print_json, report_error, say, table
from backend.errors import ConfigError, DataError, Problem, TrainingError, TunesmithError
from backend.reports import RunStatus

ONE = ConfigError([Problem("seed", "is odd.", "Choose 42.")])
TWO = ConfigError([Problem("seed", "is odd.", "Choose 42."), Problem("name", "is long.", "Cut it.")])
FULL = TrainingError("The disk is full.", remedy="Make room.", code="disk-full")


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({"a": 1, "b": None, "c": True}, {"a": 1, "b": None, "c": True}),
        ({"loss": float("nan"), "up": float("inf"), "down": float("-inf"), "fine": 0.5},
         {"loss": None, "up": None, "down": None, "fine": 0.5}),
        ({"path": Path("a/b"), "status": RunStatus.FAILED}, {"path": "a/b", "status": "failed"}),
        ([(1, 2), range(2), {"k": [float("nan")]}], [[1, 2], [0, 1], {"k": [None]}]),
        ({1: "é – ☕"}, {"1": "é – ☕"}),
        ([], []),
    ],
)  # fmt: skip
def test_json_that_any_reader_takes(value: Any, read: Any, capsys: pytest.CaptureFixture[str]) -> None:
    print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed, parse_constant=pytest.fail) == read
    assert printed.endswith("\n")


def test_json_keeps_letters_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "Küche"})
    assert "Küche" in capsys.readouterr().out


def test_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("one")
    say()
    assert capsys.readouterr() == ("one\n\n", "")


@pytest.mark.parametrize(
    ("width", "run", "gone"),
    [
        (80, 34, ["loss", "step"]),
        (80, 41, ["loss", "step"]),
        (86, 34, ["loss"]),
        (95, 34, []),
        (50, 34, ["loss", "step"]),
    ],
)
def test_a_narrow_screen_cuts_no_figure(
    width: int, run: int, gone: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    figures = {"status": "interrupted", "step": "1200/1200", "loss": "0.1234", "held-out loss": "0.4321"}
    row = ("r" * run, "name of it", *figures.values())
    table(["run", "name", *figures], [row], whole=["run", "status", "step", "loss"], spare=["loss", "step"])
    shown = capsys.readouterr().out
    assert shown.count("r") >= run
    assert [name for name, value in figures.items() if value not in shown] == sorted(gone, reverse=True)
    assert max(map(len, shown.splitlines())) <= width


def test_a_table_shows_cells_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table(["question", "answer"], [("[red]x[/red]", "[/]"), ("two", "z" * 200)], title="A few")
    shown = capsys.readouterr().out
    assert "A few" in shown
    assert "question" in shown
    assert "[red]x[/red]" in shown
    assert "[/]" in shown
    assert shown.count("z") == 200


@pytest.mark.parametrize(
    ("error", "code", "screen"),
    [
        (ONE, 2, "Error: seed: is odd. Choose 42.\n"),
        (TWO, 2, "Errors:\nseed: is odd. Choose 42.\nname: is long. Cut it.\n"),
        (FULL, 1, "Error: The disk is full. Make room.\n"),
        (DataError("Row 3 is empty.", remedy="Fill it.", code="x"), 2, "Error: Row 3 is empty. Fill it.\n"),
    ],
)
def test_an_error_for_a_person(
    error: TunesmithError, code: int, screen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_error(error, as_json=False) == code
    assert capsys.readouterr() == ("", screen)


@pytest.mark.parametrize(("error", "code"), [(TWO, 2), (FULL, 1)])
def test_an_error_for_a_machine(error: TunesmithError, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error(error, as_json=True) == code
    printed, screen = capsys.readouterr()
    assert json.loads(printed) == {"error": error_record(error)}
    assert screen == ""


def test_the_record_of_an_error() -> None:
    assert error_record(FULL) == {
        "code": "disk-full",
        "message": "The disk is full.",
        "remedy": "Make room.",
    }
    assert error_record(TWO)["problems"] == [
        {"field": "seed", "message": "is odd.", "remedy": "Choose 42."},
        {"field": "name", "message": "is long.", "remedy": "Cut it."},
    ]
