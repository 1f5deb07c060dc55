"""Read the small records of a run folder strictly; the error names what is wrong with a damaged one."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from backend.errors import RunError
from backend.run.environment import Environment
from backend.run.reports import Attempt, DataCheck, Evaluations, Outcome, QueueTicket, RunStatus
from backend.run.reward_audit import RewardAudit
from backend.utils.file_utils import DamagedFileError, StrPath, read_bytes, read_json_object
from backend.utils.record_utils import record_from_json

CONFIG_END = "# end of config"
"""The last line of a configuration, so that a cut one is noticed."""
_ENDED = (RunStatus.FINISHED, RunStatus.STOPPED, RunStatus.FAILED)

T = TypeVar("T")


def utc_now() -> str:
    """Return the time now, UTC, ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def damaged(path: StrPath, problem: str) -> RunError:
    """Return the error that names the damaged file of a run and what is wrong with it."""
    name = os.path.basename(path)  # noqa: PTH119  plain text will do
    return RunError(f"{name}: {problem}", remedy="Restore it from a copy.", code="damaged-run")


def read_record(path: StrPath, parse: Callable[[dict[str, object]], T]) -> T | None:
    """Return ``parse`` of the JSON object in ``path``; None without the file. Raises RunError when damaged."""
    try:
        return parse(read_json_object(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except DamagedFileError as error:
        raise damaged(path, error.problem) from error
    except (ValueError, OSError) as error:
        raise damaged(path, str(error)) from error


def read_rare_record(path: StrPath, parse: Callable[[dict[str, object]], T]) -> T | None:
    """Like ``read_record``, quicker for a file that few runs have: to ask costs a listing less than an exception."""
    return read_record(path, parse) if os.access(path, os.F_OK) else None


def read_config_text(path: StrPath) -> str:
    """The configuration as YAML. Raises RunError when it is missing, cut short or not text."""
    try:
        text = read_bytes(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, f"it cannot be read ({error})") from error
    if not text.rstrip().endswith(CONFIG_END):
        raise damaged(path, f"it is cut short: its last line is not {CONFIG_END!r}")
    return text


def read_environment(path: StrPath) -> Environment:
    """Return the record of what an attempt ran on; empty without the file. Raises RunError when damaged."""
    return read_record(path, lambda value: record_from_json(Environment, value)) or Environment()


def read_attempt(path: StrPath) -> Attempt:
    """Return an attempt. Raises RunError when its file is missing or damaged."""
    attempt = read_record(path, lambda value: record_from_json(Attempt, value))
    if attempt is None:
        raise damaged(path, "it is missing")
    return attempt


def read_outcome(path: StrPath) -> Outcome | None:
    """Return the outcome of an attempt; None without the file. Raises RunError when damaged."""
    return read_record(path, _outcome)


def _outcome(value: dict[str, object]) -> Outcome:
    outcome = record_from_json(Outcome, value)
    if outcome.status not in _ENDED:
        raise ValueError(f"{outcome.status} is no way to end")
    return outcome


def read_ticket(path: StrPath) -> QueueTicket | None:
    """Return a place in the queue; None without the file. Raises RunError when damaged."""
    return read_rare_record(path, lambda value: record_from_json(QueueTicket, value))


def read_data_check(path: StrPath) -> DataCheck:
    """Return the findings of the data check; empty without the file. Raises RunError when damaged."""
    return read_rare_record(path, lambda value: record_from_json(DataCheck, value)) or DataCheck(())


def read_evaluations(path: StrPath) -> Evaluations:
    """Return the evaluations of a result; none without the file. Raises RunError when damaged."""
    return read_rare_record(path, lambda value: record_from_json(Evaluations, value)) or Evaluations()


def read_reward_audit(path: StrPath) -> RewardAudit | None:
    """Return what answers earned before training; None without the file. Raises RunError when damaged."""
    return read_rare_record(path, lambda value: record_from_json(RewardAudit, value))


def step_of(record: Mapping[str, object]) -> float:
    """Return the step that a line belongs to; infinity if it has none."""
    step = record.get("step")
    return step if isinstance(step, int) else math.inf
