"""The small JSON records of a run folder: read strictly, with the damage named, and the files of its attempts.

Only ``run_dir`` uses this room. Floor F0: imports errors, reports and utils.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from backend.errors import RunError
from backend.reports import Attempt, AttemptEnd, Outcome, QueueTicket, RunStatus
from backend.utils.file_utils import (
    DamagedFileError,
    FileSystem,
    publish_folder,
    read_json_object,
    write_json_durably,
)
from backend.utils.process_utils import identify
from backend.utils.record_utils import record_from_json, record_to_json

_ENDED = (RunStatus.FINISHED, RunStatus.STOPPED, RunStatus.FAILED)

T = TypeVar("T")


def utc_now() -> str:
    """The time now, UTC, ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def damaged(path: Path, problem: str) -> RunError:
    """The error that says which file of a run is damaged and how."""
    return RunError(f"{path.name}: {problem}", remedy="Restore it from a copy.", code="damaged-run")


def read_record(path: Path, parse: Callable[[dict[str, object]], T]) -> T | None:
    """What ``parse`` makes of the JSON object in ``path``; None without the file. Raises RunError when damaged."""
    try:
        return parse(read_json_object(path))
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        raise damaged(path, error.problem) from error
    except (ValueError, OSError) as error:
        raise damaged(path, str(error)) from error


def parse_outcome(value: dict[str, object]) -> Outcome:
    """An outcome from JSON. Raises ValueError when it is none."""
    outcome = record_from_json(Outcome, value)
    if outcome.status not in _ENDED:
        raise ValueError(f"{outcome.status} is no way to end")
    return outcome


def parse_ticket(value: dict[str, object]) -> QueueTicket:
    """A place in the queue from JSON. Raises ValueError when it is none."""
    return record_from_json(QueueTicket, value)


def stat_or_none(path: str) -> os.stat_result | None:
    """What the file system says of ``path``; None when there is nothing."""
    try:
        return os.stat(path)  # noqa: PTH116  a listing stats ten thousand of them
    except OSError:
        return None


def highest_number(folder: Path, pattern: str) -> int:
    """The highest number that ``pattern``'s group finds among the names in ``folder``, 0 when there is none."""
    try:
        matches = [re.fullmatch(pattern, name) for name in os.listdir(folder)]  # noqa: PTH208  a listing asks often
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return max((int(match[1]) for match in matches if match), default=0)


def step_of(record: Mapping[str, object]) -> float:
    """The step that a line belongs to; infinity when it does not say."""
    step = record.get("step")
    return step if isinstance(step, int) else math.inf


def publish_new(root: Path, slug: str, name: str, text: str, fs: FileSystem) -> Path:
    """A new folder ``<utc date>-<slug>-<4 hex>`` under ``root`` with one file in it, whole or not at all.

    Raises OSError, and leaves nothing then.
    """
    while True:
        final = root / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{slugify(slug)}-{secrets.token_hex(2)}"
        staging = final.with_name(f".{final.name}.{secrets.token_hex(8)}.tmp")
        try:
            fs.mkdir(staging)
            fs.write(staging / name, text.encode("utf-8"))
            publish_folder(staging, final, fs=fs)
        except OSError as error:
            taken = isinstance(error, FileExistsError)
            for folder in (staging,) if taken else (staging, final):
                _discard(folder, name)
            if not taken:
                raise
        else:
            return final


def _discard(folder: Path, name: str) -> None:
    """Remove a folder of one file, without opening anything: there may be no descriptors left."""
    with contextlib.suppress(OSError):
        (folder / name).unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def slugify(text: str) -> str:
    """Lower-case letters, digits and single dashes, at most 40; ``run`` when nothing is left."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:40].strip("-") or "run"


def match_name(wanted: str, names: Sequence[str]) -> str:
    """The one name that ``wanted`` is, or begins. Raises RunError (``no-such-run``, ``ambiguous-run``)."""
    matches = [name for name in names if wanted and name.startswith(wanted)]
    if wanted in names or len(matches) == 1:
        return wanted if wanted in names else matches[0]
    if matches:
        raise RunError(
            f"{wanted!r} begins the names of {len(matches)} runs.",
            remedy=f"Give a longer beginning: {', '.join(matches[:5])}",
            code="ambiguous-run",
        )
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    remedy = f"Did you mean {' or '.join(near)}?" if near else "See them all with: tunesmith runs list"
    raise RunError(f"There is no run {wanted!r}.", remedy=remedy, code="no-such-run")


@dataclass(frozen=True)
class AttemptFiles:
    """The folder ``attempts/``: ``<n>.json`` for the n-th attempt, counted from 1. Written by who holds the lock."""

    folder: Path

    def file(self, number: int) -> Path:
        """Where an attempt is recorded."""
        return self.folder / f"{number}.json"

    def latest_number(self) -> int:
        """The number of the latest attempt, 0 before the first."""
        return highest_number(self.folder, r"([1-9]\d{0,8})\.json")

    def read(self, number: int) -> Attempt:
        """One attempt. Raises RunError when there is none of that number or its file is damaged."""
        attempt = read_record(self.file(number), lambda value: record_from_json(Attempt, value))
        if attempt is None:
            raise damaged(self.file(number), "it is missing")
        return attempt

    def begin(self, attempt: Attempt) -> Attempt:
        """Record ``attempt`` as the next one; it comes back with its number."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        return self._write(replace(attempt, number=self.latest_number() + 1))

    def set_process(self, attempt: Attempt, pid: int) -> Attempt:
        """Record which process carries an attempt out. Raises ProcessLookupError when it is gone already."""
        return self._write(replace(attempt, process=identify(pid)))

    def end(self, attempt: Attempt, reason: str, exit_code: int | None, signal_number: int | None) -> Attempt:
        """Record how the process of an attempt ended."""
        return self._write(replace(attempt, end=AttemptEnd(utc_now(), reason, exit_code, signal_number)))

    def _write(self, attempt: Attempt) -> Attempt:
        write_json_durably(self.file(attempt.number), record_to_json(attempt))
        return attempt
