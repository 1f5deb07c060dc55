"""The guided way from rows to an export: which commands it carries out, and what it asks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from backend.commands import start as module
from backend.commands.cli import main
from backend.commands.start import start

Led = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def led(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Led:
    """Give the answers in turn (None: Ctrl-D); return exit code and commands, which end with their codes or 0."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("id,Frage,Antwort\n1,a,b\n", encoding="utf-8")

    def go(answers: Sequence[str | None], codes: dict[str, list[int]] | None = None) -> tuple[int, list[str]]:
        given, commands, left = (
            iter(answers),
            list[str](),
            {name: [*all_] for name, all_ in (codes or {}).items()},
        )

        def carried_out(words: Sequence[str]) -> int:
            commands.append(" ".join(words))
            return next(
                (all_.pop(0) for name, all_ in left.items() if commands[-1].startswith(name) and all_), 0
            )

        def answer(_: str) -> str:
            try:
                found = next(given)
            except StopIteration:
                pytest.fail(f"asked more than expected after {commands}")
            if found is None:
                raise EOFError
            return found

        for stream in (sys.stdin, sys.stdout):
            monkeypatch.setattr(stream, "isatty", lambda: True)
        monkeypatch.setattr(module, "main", carried_out)
        monkeypatch.setattr("builtins.input", answer)
        return start("rows.csv"), commands

    return go


SETTINGS = "--data.train rows.csv --model.model_name_or_path smollm2-135m"


def test_it_leads_to_an_export(led: Led) -> None:
    assert led(["no", "", "no", ""]) == (
        0,
        [
            "data check rows.csv",
            f"estimate {SETTINGS}",
            f"train {SETTINGS}",
            "evaluate latest",
            "export latest --to gguf",
        ],
    )


def test_it_shows_rows_and_chats_where_that_is_wanted(led: Led) -> None:
    code, commands = led(["yes", "y", "YES", "no"])
    assert (code, commands[1], commands[-1]) == (
        0,
        "data preview rows.csv --model smollm2-135m",
        "chat latest",
    )


def test_it_asks_for_columns_that_it_cannot_tell(led: Led) -> None:
    _, commands = led(["frage", "ant", "no", "no"], {"data check": [2, 0]})
    columns = "--data.columns.prompt Frage --data.columns.completion Antwort"
    assert commands[:3] == [
        "data check rows.csv",
        f"data check rows.csv {columns}",
        f"estimate --data.train rows.csv {columns} --model.model_name_or_path smollm2-135m",
    ]


def test_what_is_no_answer_is_asked_again(led: Led, capsys: pytest.CaptureFixture[str]) -> None:
    assert led(["perhaps", "no", "no"])[0] == 0
    assert "Please give one of these." in capsys.readouterr().out


def test_rows_without_two_columns_end_it(led: Led, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\na\n", encoding="utf-8")
    assert led([], {"data check": [2]}) == (2, ["data check rows.csv"])


def test_rows_that_cannot_be_read_end_it(led: Led, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").unlink()
    assert led([], {"data check": [2]}) == (2, ["data check rows.csv"])


def test_it_goes_on_with_a_fixed_copy(led: Led, tmp_path: Path) -> None:
    (tmp_path / "mended" / "v001").mkdir(parents=True)
    (tmp_path / "mended" / "v001" / "rows.jsonl").touch()
    _, commands = led(["", "no", "no"], {"data check": [1, 0]})
    assert commands[1] == "data check rows.csv --fix mended"
    assert commands[2].startswith("estimate --data.train mended/v001/rows.jsonl ")


@pytest.mark.parametrize(
    ("answers", "codes", "code"),
    [
        (["no"], {"data check": [1]}, 1),
        ([""], {"data check": [1, 0]}, 1),  # nothing was written
        (["no"], {"estimate": [1]}, 1),
        (["no", "yes"], {"train": [130]}, 130),
        (["no", "no"], {}, 0),
    ],
)
def test_it_ends_where_it_cannot_or_shall_not_go_on(
    led: Led, answers: list[str], codes: dict[str, list[int]], code: int
) -> None:
    assert led(answers, codes)[0] == code


def test_the_end_of_the_input_ends_it(led: Led) -> None:
    assert led(["no", None]) == (0, ["data check rows.csv", f"estimate {SETTINGS}"])


def test_without_a_terminal_it_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start", "my rows.csv"]) == 0
    said = capsys.readouterr().out
    assert "tunesmith data check 'my rows.csv'" in said
    assert "tunesmith export latest --to gguf" in said
