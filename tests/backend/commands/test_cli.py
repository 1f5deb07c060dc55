"""Parse, call, print: backend/commands/cli.py."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

from backend.commands import cli
from backend.commands.cli import app, main
from backend.errors import RunError, TrainingError
from tests.house import ROOT
from tests.runs import child_environment, tree

GROUPS = {"config:config", "tensorboard:tensorboard", "run_queue:queue"}
COMMANDS = ["train", "evaluate", "chat", "infer", "runs", "config", "doctor"]


@pytest.fixture(autouse=True)
def _wide_screen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if f"│ {name} " not in shown] == []


def first_line(path: str) -> str:
    """The first line of the docstring at ``path``, in plain text; an App has none and is described in the table."""
    module, _, name = path.partition(":")
    return str(inspect.getdoc(getattr(import_module(f"backend.commands.{module}"), name))).splitlines()[0]


FUNCTIONS = [(path, text) for _, path, text in cli.COMMANDS if path not in GROUPS]


@pytest.mark.parametrize(("path", "text"), FUNCTIONS, ids=[path for path, _ in FUNCTIONS])
def test_the_table_holds_the_first_line_of_the_docstring(path: str, text: str) -> None:
    assert text == first_line(path)


def test_a_group_in_a_module_of_its_own_is_described_in_the_table() -> None:
    assert {path for _, path, _ in cli.COMMANDS} > GROUPS
    assert [app["config"].help, app["runs"]["queue"].help] == [
        text for _, path, text in cli.COMMANDS if path in {"config:config", "run_queue:queue"}
    ]


def test_the_help_of_a_command_is_its_whole_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Fine-tune a model: tunesmith train" in shown
    assert "What the data check calls STOP prevents the run." in shown
    assert "For example:" in shown


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "0.1.0\n"


def test_without_being_installed_it_has_no_version(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "version", raising(PackageNotFoundError("tunesmith")))
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "unknown\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], 'Unknown command "frobnicate"'),
        (["runs", "frobnicate"], 'Unknown command "frobnicate"'),
        (["config", "frobnicate"], 'Unknown command "frobnicate"'),
        (["doctor", "--frobnicate"], "Unknown option: --frobnicate"),
        (["runs", "list", "--frobnicate", "x"], "Unknown option: --frobnicate"),
        (["runs", "list", "--frobnicate", "x"], "See `tunesmith runs list --help`"),
        (
            ["data", "check", "a", "b", "c"],
            "Error: Not expected here: b c. See `tunesmith data check --help`.",
        ),
        (["runs", "show"], "requires an argument"),
        (["infer"], "requires an argument"),
        (["chat"], "requires an argument"),
        (["evaluate"], "requires an argument"),
        (["infer", "x", "--prompt", "a", "--top-k", "many"], "many"),
        (["train", "--frobnicate"], "frobnicate: has no value"),
        (["train", "--data.train", "x.jsonl", "--frobnicate", "3"], "frobnicate: there is no such setting"),
        (["train"], "data.train: is required"),
    ],
)
class TestWhatIsNoCommand:
    def test_one_sentence_and_exit_code_2(
        self, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert main(arguments) == 2
        screen = capsys.readouterr()
        assert screen.out == ""
        assert screen.err.startswith("Error: ")
        assert said in screen.err
        assert screen.err.count("\n") == 1
        assert tree(tmp_path) == {}

    def test_as_json(
        self, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert main([*arguments, "--json"]) == 2
        screen = capsys.readouterr()
        error = json.loads(screen.out)["error"]
        assert screen.err == ""
        assert error["code"]
        assert error["message"]


class TestHowCommandsEnd:
    @pytest.mark.parametrize(("result", "code"), [(0, 0), (3, 3), (143, 143), (None, 0)])
    def test_the_exit_code_is_the_commands(
        self, monkeypatch: pytest.MonkeyPatch, result: int | None, code: int
    ) -> None:
        monkeypatch.setattr(App, "__call__", lambda *_, **__: result)
        assert main(["x"]) == code

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (RunError("It is busy.", remedy="Wait.", code="busy"), 2),
            (TrainingError("It is full.", remedy="Make room.", code="disk-full"), 1),
        ],
    )
    def test_an_error_is_a_sentence(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        error: RunError | TrainingError,
        code: int,
    ) -> None:
        monkeypatch.setattr(App, "__call__", raising(error))
        assert main(["x"]) == code
        assert capsys.readouterr() == ("", f"Error: {error}\n")
        assert main(["x", "--json"]) == code
        assert json.loads(capsys.readouterr().out)["error"]["code"] == error.code

    @pytest.mark.parametrize(
        ("set_by_a_person", "meant"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")]
    )
    def test_threads_that_wait_leave_their_core_to_others(
        self, monkeypatch: pytest.MonkeyPatch, set_by_a_person: dict[str, str], meant: str
    ) -> None:
        """It must stand before torch comes up, which reads it once; children inherit it."""
        monkeypatch.setattr(os, "environ", {**set_by_a_person})
        monkeypatch.setattr(App, "__call__", lambda *_, **__: 0)
        main(["x"])
        assert os.environ["OMP_WAIT_POLICY"] == meant

    def test_ctrl_c(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(App, "__call__", raising(KeyboardInterrupt()))
        assert main(["x"]) == 130
        assert capsys.readouterr() == ("", "Interrupted.\n")

    def test_ctrl_c_inside_a_command(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The library would make it a SystemExit, as rich does for a reader who has gone."""
        monkeypatch.setattr("backend.commands.config.config_schema", raising(KeyboardInterrupt()))
        assert main(["config", "schema"]) == 130
        assert capsys.readouterr() == ("", "Interrupted.\n")

    def test_the_words_of_the_command_line_are_the_default(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["tunesmith", "--version"])
        assert main() == 0
        assert capsys.readouterr().out == "0.1.0\n"

    def test_what_the_system_refuses_is_a_sentence(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(App, "__call__", raising(PermissionError(13, "Permission denied", "x.jsonl")))
        assert main(["x"]) == 2
        assert capsys.readouterr().err.startswith("Error: x.jsonl: Permission denied. Check the path")
        assert main(["x", "--json"]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "system-error"


def child(words: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-P", "-m", "backend.commands.cli", *words]
    return subprocess.run(
        command,
        env=child_environment(PYTHONPATH=str(ROOT), **environment),
        cwd=cwd,
        capture_output=True,
        check=False,
    )


def shell(words: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    line = f"{shlex.quote(sys.executable)} -P -m backend.commands.cli {words}"
    environ = child_environment(PYTHONPATH=str(ROOT))
    return subprocess.run(["bash", "-c", line], env=environ, cwd=cwd, capture_output=True, check=False)


@pytest.mark.slow
class TestRealChildren:
    def test_a_reader_that_left_is_no_error(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        child = subprocess.run(
            [sys.executable, "-m", "backend.commands.cli", "config", "schema"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment(),
            check=False,
            timeout=60,
        )
        os.close(writer)
        assert (child.returncode, child.stderr) == (0, "")

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
    def test_a_terminal_that_lacks_a_character_shows_another(self, tmp_path: Path, encoding: str) -> None:
        (tmp_path / "rows.jsonl").write_text('{"prompt": "\u6c34 …", "completion": "é"}\n', encoding="utf-8")
        for words in (["data", "rows", "rows.jsonl"], ["data", "rows", "rows.jsonl", "--json"], ["--help"]):
            done = child(words, tmp_path, PYTHONIOENCODING=encoding)
            assert (done.returncode, done.stderr) == (0, b"")
        told = json.loads(
            child(["data", "rows", "rows.jsonl", "--json"], tmp_path, PYTHONIOENCODING=encoding).stdout
        )
        assert "\u6c34" in json.dumps(told, ensure_ascii=False)

    def test_a_name_that_is_no_text_is_printed_and_told(self, tmp_path: Path) -> None:
        name = os.fsdecode(b"r\xff.jsonl")
        (tmp_path / name).write_text('{"prompt": "a", "completion": "b"}\n')
        done = child(["data", "rows", name, "--json"], tmp_path)
        assert done.returncode == 0
        assert json.loads(done.stdout)["total"] == 1

    @pytest.mark.parametrize("words", ["--help", "config init", "config schema", "nowhere --json"])
    def test_a_closed_output_takes_nothing_and_breaks_nothing(self, tmp_path: Path, words: str) -> None:
        done = shell(f"{words} >&-", tmp_path)
        assert done.returncode in {0, 2}
        assert b"Traceback" not in done.stderr

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
    @pytest.mark.parametrize("words", ["config schema", "--help", "runs list --json", "nowhere --json"])
    def test_an_output_that_is_full_is_told_in_a_sentence(self, tmp_path: Path, words: str) -> None:
        done = shell(f"{words} > /dev/full", tmp_path)
        assert done.returncode == 2
        assert b"No space left on device" in done.stderr
        assert done.stderr.count(b"\n") == 1

    @pytest.mark.parametrize("words", ["--help", "config schema", "data rows rows.jsonl --limit 3000"])
    def test_a_reader_that_wants_one_line_is_no_error(self, tmp_path: Path, words: str) -> None:
        (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 3000)
        done = shell(f"{words} | head -1 > /dev/null; exit ${{PIPESTATUS[0]}}", tmp_path)
        assert (done.returncode, done.stderr) == (0, b"")

    def test_the_exit_code_reaches_the_shell(self) -> None:
        child = subprocess.run(
            [sys.executable, "-m", "backend.commands.cli", "frobnicate"],
            capture_output=True,
            text=True,
            env=child_environment(),
            check=False,
            timeout=60,
        )
        assert (child.returncode, child.stdout) == (2, "")
        assert child.stderr.startswith('Error: Unknown command "frobnicate"')
