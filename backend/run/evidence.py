"""Gather the evidence in a run folder about the state of its run; ``lifecycle`` judges it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from backend.errors import RunError
from backend.run.environment import Environment
from backend.run.files import RunFiles
from backend.run.lifecycle import Evidence
from backend.run.pace import RESPONDING, health
from backend.run.records import (
    read_attempt,
    read_config_text,
    read_environment,
    read_outcome,
    read_ticket,
)
from backend.run.reports import Attempt, Outcome, QueueTicket
from backend.utils.file_utils import DamagedFileError, StrPath, read_bytes, read_json_object
from backend.utils.lock_utils import is_locked
from backend.utils.process_utils import boot_id

T = TypeVar("T")

_END = b"\n}\n"
"""How the JSON objects end that we write."""
_CONFIG = RunFiles.config.name
_OUTCOME = RunFiles.outcome_file.name
_ATTEMPTS = RunFiles.attempts.name
_TICKET = RunFiles.ticket_file.name
_ENVIRONMENT = RunFiles.environment.name


@dataclass(frozen=True)
class Records:
    """The small files that the state rests on, each read once; a damaged one counts as missing.

    ``number``, ``attempt`` and ``outcome`` are those of the latest attempt. ``problems`` says what is wrong with
    which file, by its path in the folder.
    """

    config: str
    number: int
    attempt: Attempt | None
    outcome: Outcome | None
    ticket: QueueTicket | None
    environment: Environment
    problems: dict[str, str]

    @property
    def reported(self) -> bool:
        """True if the trainer of the latest attempt has written its environment; until then it is starting."""
        return self.number > 0 and self.environment.attempt == self.number


def read_records(run: RunFiles, *, thorough: bool = True) -> Records:
    """Return the records of a run. Raises nothing.

    Unless ``thorough``, what nobody needs of a run at rest is only seen to be whole, which is quicker by far: its
    environment, and an attempt whose end the trainer told.
    """
    folder = str(run.path)
    problems: dict[str, str] = {}

    def read(name: str, reader: Callable[[StrPath], T], *, needed: bool = True) -> T | None:
        path = f"{folder}/{name}"
        try:
            return reader(path) if needed or not _is_whole(path) else None
        except RunError as error:
            problems[name] = error.message
            return None

    config = read(_CONFIG, read_config_text)
    outcome = read(_OUTCOME, read_outcome)
    number = run.latest_attempt_number(outcome.attempt if outcome else 0)
    told = outcome is not None and outcome.attempt == number
    attempt_name = f"{_ATTEMPTS}/{number}.json"
    attempt = read(attempt_name, read_attempt, needed=thorough or not told) if number else None
    ticket = read(_TICKET, read_ticket)
    environment = read(_ENVIRONMENT, read_environment, needed=thorough)
    return Records(
        config or "",
        number,
        attempt,
        outcome if told else None,
        ticket,
        environment or Environment(),
        problems,
    )


def _is_whole(path: str) -> bool:
    """Return whether a record ends as we write it. Reading a small file costs less than seeking to its end."""
    try:
        return read_bytes(path).endswith(_END)
    except OSError:
        return False


def read_stop(run: RunFiles) -> str | None:
    """Return the reason of a request to stop, None if there is none; any file of that name counts as one."""
    try:
        return str(read_json_object(run.at(RunFiles.stop_file)).get("reason", "stop-requested"))
    except FileNotFoundError:
        return None
    except (OSError, DamagedFileError):
        return "stop-requested"


def read_stop_wait(run: RunFiles) -> float | None:
    """Return how many seconds a request to stop waits for a checkpoint; None if it does not say."""
    try:
        seconds = read_json_object(run.at(RunFiles.stop_file)).get("wait_seconds")
    except (OSError, DamagedFileError):
        return None
    return float(seconds) if isinstance(seconds, int | float) and seconds >= 0 else None


def is_held(run: RunFiles) -> bool:
    """Return whether a living process works on the run."""
    return is_locked(run.at(RunFiles.lock_file))


def look(run: RunFiles) -> tuple[Evidence, Records]:
    """Return the evidence about the state of a run, and the records it comes from. Raises nothing."""
    held = is_held(run)
    records = read_records(run, thorough=held)
    if not held and _is_open(records.attempt) and is_held(run):  # it began while we were reading
        held, records = True, read_records(run)
    return _evidence(run, records, held), records


def _is_open(attempt: Attempt | None) -> bool:
    return attempt is not None and attempt.end is None


def _evidence(run: RunFiles, records: Records, held: bool) -> Evidence:
    attempt = records.attempt
    end = attempt.end if attempt else None
    return Evidence(
        held=held,
        stop=read_stop(run) if held or (end and end.reason == "stopped") else None,
        attempt=records.number,
        end=end,
        outcome=records.outcome,
        ticket=records.ticket,
        reported=held and records.reported,
        same_boot=attempt is None or not _is_open(attempt) or _is_of_this_boot(attempt),
        damage=_damage(run, records),
        health=health(run, attempt) if held else RESPONDING,
        pid=attempt.process.pid if attempt and attempt.process else 0,
        own_process=attempt is not None and attempt.is_own_process,
    )


def _damage(run: RunFiles, records: Records) -> str:
    if not records.problems or run.path.is_dir():
        return "; ".join(records.problems.values())
    return "the folder is gone"


def _is_of_this_boot(attempt: Attempt) -> bool:
    return attempt.process is None or attempt.process.boot_id == boot_id()
