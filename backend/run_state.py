"""The evidence in a run folder about where its run stands; ``lifecycle`` judges it.

Only ``run_dir`` uses this room. Floor F0: imports errors, lifecycle, reports and utils.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from backend.errors import RunError
from backend.lifecycle import Evidence
from backend.reports import Attempt, Outcome, QueueTicket
from backend.run_records import parse_outcome, parse_ticket, read_record
from backend.utils.process_utils import boot_id

if TYPE_CHECKING:
    from backend.run_dir import RunDir

T = TypeVar("T")


@dataclass(frozen=True)
class Records:
    """The small files that the state rests on, each read once; ``problems`` says what is wrong with which."""

    attempt: Attempt | None
    outcome: Outcome | None
    ticket: QueueTicket | None
    problems: dict[Path, str]


def read_records(run: RunDir) -> Records:
    """The records of a run. Raises nothing: a damaged one is None and stands among the problems."""
    problems: dict[Path, str] = {}

    def read(path: Path, reader: Callable[[], T | None]) -> T | None:
        try:
            return reader()
        except RunError as error:
            problems[path] = error.message
            return None

    number = run.latest_attempt_number()
    read(run.config, run.read_config_text)
    attempt = read(run.attempt_files.file(number), lambda: run.read_attempt(number)) if number else None
    outcome = read(run.outcome_file, lambda: read_record(run.outcome_file, parse_outcome))
    ticket = read(run.ticket_file, lambda: read_record(run.ticket_file, parse_ticket))
    read(run.environment, run.read_environment)
    return Records(attempt, outcome, ticket, problems)


def read_evidence(run: RunDir) -> Evidence:
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
        same_boot=attempt is None or attempt.process is None or attempt.process.boot_id == boot_id(),
        damage="; ".join(records.problems.values()) if run.path.is_dir() else "the folder is gone",
    )


def _has_reported(run: RunDir, attempt: int) -> bool:
    try:
        return run.read_environment().get("attempt") == attempt
    except RunError:
        return False
