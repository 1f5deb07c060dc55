"""The evidence in a run folder about where its run stands; ``lifecycle`` judges it.

Only ``run_dir`` uses this room. Floor F0: imports errors, lifecycle, reports and utils.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from backend.errors import RunError
from backend.lifecycle import Evidence
from backend.reports import Attempt, Outcome, QueueTicket
from backend.run_records import AttemptFiles, parse_outcome, parse_ticket, read_record
from backend.utils.process_utils import boot_id

T = TypeVar("T")


class RunFiles(Protocol):
    """What is read of a run folder here; ``RunDir`` is one."""

    @property
    def id(self) -> str:
        """The run's name."""

    @property
    def path(self) -> Path:
        """The folder."""

    @property
    def config(self) -> Path:
        """The configuration."""

    @property
    def outcome_file(self) -> Path:
        """The trainer's last words."""

    @property
    def ticket_file(self) -> Path:
        """The place in the queue."""

    @property
    def environment(self) -> Path:
        """What the latest attempt runs on."""

    @property
    def attempt_files(self) -> AttemptFiles:
        """The attempts."""

    def read_config_text(self) -> str:
        """The configuration as YAML."""

    def read_environment(self) -> dict[str, object]:
        """What the latest attempt runs on."""

    def is_held(self) -> bool:
        """Whether a living process works on the run."""

    def stop_requested(self) -> str | None:
        """The reason of a request to stop."""


@dataclass(frozen=True)
class Records:
    """The small files that the state rests on, each read once; ``problems`` says what is wrong with which."""

    attempt: Attempt | None
    outcome: Outcome | None
    ticket: QueueTicket | None
    problems: dict[Path, str]


def read_records(run: RunFiles) -> Records:
    """The records of a run. Raises nothing: a damaged one is None and stands among the problems."""
    problems: dict[Path, str] = {}

    def read(path: Path, reader: Callable[[], T | None]) -> T | None:
        try:
            return reader()
        except RunError as error:
            problems[path] = error.message
            return None

    number = run.attempt_files.latest_number()
    read(run.config, run.read_config_text)
    attempt = read(run.attempt_files.file(number), lambda: run.attempt_files.read(number)) if number else None
    outcome = read(run.outcome_file, lambda: read_record(run.outcome_file, parse_outcome))
    ticket = read(run.ticket_file, lambda: read_record(run.ticket_file, parse_ticket))
    read(run.environment, run.read_environment)
    return Records(attempt, outcome, ticket, problems)


def read_evidence(run: RunFiles) -> Evidence:
    """All that the folder says about where its run stands. Raises nothing."""
    held = run.is_held()
    records = read_records(run)
    attempt = records.attempt
    return Evidence(
        run.id,
        held=held,
        stop=run.stop_requested() if held else None,
        attempt=attempt,
        outcome=records.outcome,
        ticket=records.ticket,
        reported=held and attempt is not None and _has_reported(run, attempt.number),
        same_boot=attempt is None or attempt.end is not None or _on_this_boot(attempt),
        damage="; ".join(records.problems.values()) if run.path.is_dir() else "the folder is gone",
    )


def _on_this_boot(attempt: Attempt) -> bool:
    return attempt.process is None or attempt.process.boot_id == boot_id()


def _has_reported(run: RunFiles, attempt: int) -> bool:
    try:
        return run.read_environment().get("attempt") == attempt
    except RunError:
        return False
