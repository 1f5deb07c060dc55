"""The report of a data check as a table: backend/commands/data_report.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from backend.commands.data_report import table
from backend.data.doctor import Report, examine
from backend.data.load import load_rows
from tests.runs import write_rows

SOUND = [{"prompt": f"What is {n} plus {n}?", "completion": f"It is {2 * n}, of course."} for n in range(60)]
SWAPPED = [{"prompt": f"Guest {n} sits at {n * 7}.", "completion": f"Who is guest {n}?"} for n in range(60)]


def report_on(folder: Path, rows: list[dict[str, str]]) -> Report:
    return examine(load_rows(write_rows(folder / "t.jsonl", rows)), "train.jsonl")


def drawn(report: Report, capsys: pytest.CaptureFixture[str]) -> str:
    Console(width=140).print(table(report))
    return capsys.readouterr().out


def test_the_table_says_what_where_and_how_to_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = drawn(report_on(tmp_path, [*SOUND, {"prompt": "a [b]", "completion": ""}]), capsys)
    assert "train.jsonl: 61 rows, 0 refused; 1 finding that should stop a run, 0 to look at." in text
    for part in (
        "STOP",
        "Answers are empty",
        "t.jsonl:61",
        "drop-empty",
        "Not checked (no model was given)",
        "1.6%",
    ):
        assert part in text


def test_settings_in_the_harm_are_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(drawn(report_on(tmp_path, SWAPPED), capsys).split())
    assert "--columns.prompt" in text
    assert "`" not in text


def test_without_findings_there_is_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = drawn(report_on(tmp_path, SOUND), capsys)
    assert "0 findings that should stop a run" in text
    assert "STOP" not in text
