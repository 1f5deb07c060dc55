"""What every command prints with: backend/commands/output.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backend.commands.output import error_record, print_json, report_error, say, say_on
from backend.errors import ConfigError, DataError, NextStep, Problem, RunError, TrainingError, TunesmithError
from backend.run.reports import RunStatus

ONE = ConfigError([Problem("seed", "is odd.", "Choose 42.")])
TWO = ConfigError([Problem("seed", "is odd.", "Choose 42."), Problem("name", "is long.", "Cut it.")])
BUSY = RunError("It trains.", remedy="Wait.", code="already-running", next_step=NextStep.WATCH, about="food")
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
    assert error_record(BUSY) == {
        "code": "already-running",
        "message": "It trains.",
        "remedy": "Wait.",
        "next_step": "watch",
        "about": "food",
    }
    assert error_record(TWO)["problems"] == [
        {"field": "seed", "message": "is odd.", "remedy": "Choose 42."},
        {"field": "name", "message": "is long.", "remedy": "Cut it."},
    ]


ESCAPES = ["\x1b[2J", "\x1b]0;title\x07", "\x1b]8;;http://evil\x1b\\", "\x9b31m", "\x08\x08", "\r"]


@pytest.mark.parametrize("escape", ESCAPES)
def test_c8_text_of_a_run_is_only_text(escape: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"before{escape}after"
    say(words)
    report_error(DataError(words, remedy=words, code="x"), as_json=False)
    print_json({words: words})
    said = capsys.readouterr()
    assert set(said.out + said.err).isdisjoint("\x1b\x07\x08\r\x9b")
    assert "after" in said.out
    assert "after" in said.err


def test_c8_json_gives_controls_back_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    print_json("".join(map(chr, range(0x100))))
    assert json.loads(capsys.readouterr().out) == "".join(map(chr, range(0x100)))


def test_lines_and_tabs_stay(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\tb\nc")
    assert capsys.readouterr().out == "a\tb\nc\n"


@pytest.mark.parametrize(("is_screen", "said"), [(True, "a·b"), (False, "a\x1bb")])
def test_c8_an_answer_is_exact_in_a_file_and_harmless_on_a_screen(
    is_screen: bool, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_screen)
    say_on("a\x1bb")
    assert capsys.readouterr().out == said
