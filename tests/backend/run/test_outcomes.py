"""How a run that went wrong ended, and exit codes: backend/run/outcomes.py."""

from __future__ import annotations

import ast
import errno
from pathlib import Path

import pytest

from backend.errors import DataError, TrainingError
from backend.run.files import RunFiles
from backend.run.outcomes import TRAINING_FAILURES, exit_code, failure, watched_exit_code
from backend.run.reports import Outcome, RunState, RunStatus
from tests.house import BACKEND, parsed

RUN = RunFiles(Path("/runs/a"))


def test_an_error_of_ours_speaks_for_itself() -> None:
    error = DataError("Row 3 is empty.", remedy="Fill it.", code="no-text")
    assert failure(error, RUN) == Outcome(RunStatus.FAILED, "no-text", "Row 3 is empty.", "Fill it.")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    ("named", "told"), [("/runs/a/metrics.jsonl", "/runs/a/metrics.jsonl"), (None, "/runs/a")]
)
def test_a_full_disk_is_named(number: int, named: str | None, told: str) -> None:
    outcome = failure(OSError(number, "full", named), RUN)
    assert outcome.code == "disk-full"
    assert outcome.message == f"The disk is full: {told} could not be written."


def test_f14_a_full_disk_says_how_many_bytes_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.run.outcomes.free_bytes", lambda _: 1234)
    outcome = failure(OSError(errno.ENOSPC, "full"), RunFiles(tmp_path))
    assert outcome.message == f"The disk is full: {tmp_path} could not be written, 1,234 bytes are left."


@pytest.mark.parametrize("error", [OSError(errno.EIO, "bad disk"), ValueError("odd")])
def test_all_else_is_unforeseen_and_says_where_to_look(error: Exception) -> None:
    outcome = failure(error, RUN)
    assert (outcome.code, exit_code(outcome)) == ("internal-error", 1)
    assert type(error).__name__ in outcome.message
    assert "train.log" in outcome.remedy


@pytest.mark.parametrize(
    ("status", "code", "exits"),
    [
        (RunStatus.FINISHED, "completed", 0),
        (RunStatus.STOPPED, "stop-requested", 3),
        (RunStatus.STOPPED, "paused", 3),
        (RunStatus.STOPPED, "sigint", 130),
        (RunStatus.STOPPED, "sigterm", 143),
        (RunStatus.FAILED, "non-finite-loss", 1),
        (RunStatus.FAILED, "non-finite-gradient", 1),
        (RunStatus.FAILED, "out-of-memory", 1),
        (RunStatus.FAILED, "disk-full", 1),
        (RunStatus.FAILED, "cannot-save", 1),
        (RunStatus.FAILED, "internal-error", 1),
        (RunStatus.FAILED, "no-rows", 2),
        (RunStatus.FAILED, "bad-config", 2),
    ],
)
def test_the_exit_code_says_how_it_ended(status: RunStatus, code: str, exits: int) -> None:
    assert exit_code(Outcome(status, code, "…")) == exits


@pytest.mark.parametrize(
    ("status", "code"),
    [("finished", 0), ("created", 0), ("failed", 1), ("interrupted", 1), ("stopped", 3)],
)
def test_whoever_watches_a_run_ends_as_it_did(status: str, code: int) -> None:
    assert watched_exit_code(RunState(RunStatus(status), "sigterm", "…")) == code


def raised(error: type[Exception]) -> set[str]:
    """The codes with which an error of this class is made anywhere."""
    return {
        word.value.value
        for path in BACKEND
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == error.__name__
        for word in node.keywords
        if word.arg == "code" and isinstance(word.value, ast.Constant)
    }


def test_a_failure_of_training_has_one_exit_code_in_the_run_and_on_the_command_line() -> None:
    codes = raised(TrainingError)
    assert {"out-of-memory", "disk-full"} <= codes <= TRAINING_FAILURES
    for code in codes:
        error = TrainingError("It failed.", remedy="", code=code)
        assert error.exit_code == exit_code(failure(error, RUN)) == 1


def test_what_cannot_be_used_has_one_exit_code_in_the_run_and_on_the_command_line() -> None:
    error = DataError("Row 3 is empty.", remedy="Fill it.", code="no-text")
    assert error.exit_code == exit_code(failure(error, RUN)) == 2
