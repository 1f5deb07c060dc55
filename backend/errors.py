"""Every error a user can fix, as one tree.

TunesmithError
├── ConfigError          a setting is unknown, missing or out of range (all problems at once)
├── DataError            a data file or row cannot be used
│   └── UnsoundDataError the data check says STOP (every finding at once)
├── ModelError           a model, tokenizer or adapter cannot be loaded or does not fit
├── RunError             a run folder is missing, damaged, busy or unfinished
├── InferenceError       a prompt or a sampling option cannot be served
├── ExportError          a result cannot be written for another program, or must not leave
└── TrainingError        training itself had to stop (non-finite values, memory, disk)
    └── RewardError      an answer of the model could not be rewarded

Each carries three things a person needs: a stable ``code`` for machines, a message that says what is wrong
and where, and a remedy that says what to do. Commands, flags and buttons are added where it is shown: see
``NextStep`` and ``MARKED_SETTING``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

MARKED_SETTING = re.compile(r"`([a-z][a-z_.]*)(?:=((?:[^`]|``)*))?`(?!`)")
"""A setting in a remedy: its name in backticks, with a value where one is meant."""

_DOUBLED_STOP = re.compile(r"(?<!\.)([.!?])\.$")


def marked(name: str, value: str) -> str:
    """Return a setting with its value as it stands in a remedy; each interface spells it in its own way."""
    return f"`{name}={value.replace('`', '``')}`"


def unmarked(found: re.Match[str]) -> tuple[str, str | None]:
    """Return the name of a setting that ``MARKED_SETTING`` found, and its value; None without one."""
    return found[1], None if found[2] is None else found[2].replace("``", "`")


class NextStep(StrEnum):
    """Something a person can do next. Each interface has its own phrase for it: a command, or a button."""

    START = "start"
    START_NOW = "start-now"
    RESUME = "resume"
    COMPUTE_LESS = "compute-less"
    EXPLAIN = "explain"
    WATCH = "watch"
    STOP = "stop"
    END = "end"
    LIST_RUNS = "list-runs"
    MAKE_SLOTS = "make-slots"
    EXPORT_BUNDLE = "export-bundle"
    STOP_SERVER = "stop-server"
    SERVE = "serve"
    CHECK_INSTALLATION = "check-installation"


EXIT_FAILED, EXIT_BAD_INPUT, EXIT_STOPPED = 1, 2, 3
"""Exit codes of our programs, beside 0 and those of signals; the table is in docs/cli.md."""


class TunesmithError(Exception):
    """What went wrong in one sentence, and what to do about it in another.

    ``code`` is stable and lower-case with dashes; it is what scripts and tests compare. A message that ends with the
    words of another program has one end mark, whether or not those brought their own. ``next_step`` comes after the
    remedy; ``about`` is what it is done to, such as the id of a run. ``exit_code`` is that
    of a program which it ends.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(
        self, message: str, *, remedy: str, code: str, next_step: NextStep | None = None, about: str = ""
    ) -> None:
        self.message = _DOUBLED_STOP.sub(r"\1", message)
        super().__init__(self.message)
        self.remedy = remedy
        self.code = code
        self.next_step = next_step
        self.about = about

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one setting: ``field`` is its dotted name."""

    field: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message} {self.remedy}".strip()


class ConfigError(TunesmithError):
    """One or more settings are wrong; ``problems`` lists every one of them."""

    def __init__(self, problems: Sequence[Problem], *, code: str = "bad-config") -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems), remedy="", code=code)


class DataError(TunesmithError):
    """A data file or row cannot be used; the message names the file and the row."""


class UnsoundDataError(DataError):
    """The data check says STOP; ``problems`` has every finding that does, its ``field`` the name of the check."""

    def __init__(self, message: str, problems: Sequence[Problem], *, remedy: str) -> None:
        self.problems = tuple(problems)
        told = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{message}\n{told}", remedy=remedy, code="unsound-data")

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}"


class ModelError(TunesmithError):
    """A model, tokenizer or adapter is missing, damaged or does not fit what was asked."""


class RunError(TunesmithError):
    """A run folder is missing, damaged, busy or not far enough for what was asked."""


class InferenceError(TunesmithError):
    """A prompt or a sampling option cannot be served."""


class ExportError(TunesmithError):
    """A result cannot be written in the form that was asked for, or must not be published."""


class TrainingError(TunesmithError):
    """Training had to stop: a non-finite value, no memory, no disk space.

    ``step_record`` is what is known of the step that could not be taken, for the flight record.
    """

    exit_code = EXIT_FAILED

    def __init__(
        self, message: str, *, remedy: str, code: str, step_record: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message, remedy=remedy, code=code)
        self.step_record = dict(step_record or {})


class RewardError(TrainingError):
    """An answer could not be rewarded; the message names the row. The weights are those of the step before."""
