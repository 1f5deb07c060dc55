"""Tables for people: backend/commands/tables.py."""

from __future__ import annotations

import pytest

from backend.commands.tables import table
from tests.backend.commands.test_output import ESCAPES


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


@pytest.mark.parametrize("escape", ESCAPES)
def test_c8_text_of_a_run_is_only_text(escape: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"before{escape}after"
    table([words], [[words]], whole=[words])
    shown = capsys.readouterr().out
    assert set(shown).isdisjoint("\x1b\x07\x08\r\x9b")
    assert shown.count("after") == 2
