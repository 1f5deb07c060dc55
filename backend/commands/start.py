"""``tunesmith start``: from a file of rows to an exported model, one question at a time; each step is a command."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from backend.commands.cli import main
from backend.commands.output import say
from backend.commands.reading import Rows
from backend.data.records import Record
from backend.data.sources import read
from backend.errors import EXIT_BAD_INPUT, EXIT_FAILED, TunesmithError

COPIES = Path("mended")
"""The folder that fixed copies are written to."""
FORMS = ("gguf", "merged", "adapter", "no")


def start(
    path: Rows,
    /,
    *,
    model: Annotated[str, Parameter(help="The model to start from.")] = "smollm2-135m",
) -> int:
    """Lead from a file of rows to an exported model: check, train, compare, chat and export, a question at a time.

    Every step is a command, which is shown before it is carried out. Enter takes the answer in brackets, Ctrl-D
    leaves. Without a terminal it only lists the commands.

    Example
    -------
    tunesmith start rows.csv
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        _list_commands(path, model)
        return 0
    try:
        return _lead(path, model)
    except EOFError:
        say()
        return 0


def _list_commands(path: str, model: str) -> None:
    settings = ["--data.train", path, "--model.model_name_or_path", model]
    say("This asks questions, and there is no terminal to ask. The commands are:")
    for words in (
        ["data", "check", path],
        ["estimate", *settings],
        ["train", *settings],
        ["evaluate", "latest"],
        ["chat", "latest"],
        ["export", "latest", "--to", FORMS[0]],
    ):
        say(f"  tunesmith {shlex.join(words)}")


def _lead(path: str, model: str) -> int:
    code, rows = _checked(path)
    if code:
        return code
    if _agrees("Look at the first rows as the model will see them?"):
        _carry_out("data", "preview", *rows, "--model", model)
    settings = ["--data.train", *rows, "--model.model_name_or_path", model]
    code = _carry_out("estimate", *settings)
    if code:
        return code
    if not _agrees("Train now? Ctrl-C saves a checkpoint and stops."):
        say(f"Whenever you like: tunesmith train {shlex.join(settings)}")
        return 0
    code = _carry_out("train", *settings) or _carry_out("evaluate", "latest")
    if code:
        return code
    if _agrees("Chat with it?"):
        _carry_out("chat", "latest")
    form = _choice("Export it, as gguf for llama.cpp, as a merged model, or as an adapter?", FORMS)
    return 0 if form == "no" else _carry_out("export", "latest", "--to", form)


def _checked(path: str) -> tuple[int, list[str]]:
    """Return 0 with a path and its columns as words of a command line, or the exit code of what cannot go on."""
    columns: list[str] = []
    code = _carry_out("data", "check", path)
    if code == EXIT_BAD_INPUT:
        columns = _asked_columns(path)
        code = _carry_out("data", "check", path, *columns) if columns else code
    if code != EXIT_FAILED:
        return code, [path, *columns]
    if not _agrees("Write a copy in which this is fixed, and go on with that?"):
        return code, []
    code = _carry_out("data", "check", path, *columns, "--fix", str(COPIES))
    copies = sorted(COPIES.glob("v*/rows.jsonl"))
    return (code, [str(copies[-1])]) if copies else (EXIT_FAILED, [])


def _asked_columns(path: str) -> list[str]:
    """Ask for the columns of question and answer; empty if the rows have no two columns, or cannot be read."""
    try:
        names = next((list(record.cells) for record in read(path) if isinstance(record, Record)), [])
    except TunesmithError:  # which the check has told
        return []
    if len(names) < 2:
        return []
    prompt = _choice("Which column has the question?", names)
    answer = _choice("Which one has the answer?", [name for name in names if name != prompt])
    return ["--data.columns.prompt", prompt, "--data.columns.completion", answer]


def _carry_out(*words: str) -> int:
    """Show a command and carry it out; its exit code. What it has to say it says itself."""
    say(f"\n$ tunesmith {shlex.join(words)}")
    return main(words)


def _agrees(question: str) -> bool:
    return _choice(question, ("yes", "no")) == "yes"


def _choice(question: str, answers: Sequence[str]) -> str:
    """Ask until one of the answers is given, or enough of its beginning; the first one is that of Enter."""
    while True:
        say(f"\n{question} [{answers[0]}] {' / '.join(answers[1:])}")
        given = input("> ").strip()
        if not given or given in answers:
            return given or answers[0]
        meant = [answer for answer in answers if answer.casefold().startswith(given.casefold())]
        if len(meant) == 1:
            return meant[0]
        say("Please give one of these.")
