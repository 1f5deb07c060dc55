"""The values that a supervisor passes to its trainer through environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_ATTEMPT, _LOCK = "TUNESMITH_ATTEMPT", "TUNESMITH_RUN_LOCK_FD"
_TOKEN, _MEETING = "TUNESMITH_RUN_TOKEN", "TUNESMITH_MEETING_FILE"


@dataclass(frozen=True)
class Handover:
    """The values that a trainer gets from its supervisor; ``Handover()`` without a supervisor.

    ``attempt``: the number of the attempt that is recorded already. ``lock``: the inherited descriptor of the run's
    lock. ``token``: marks every process of the attempt. ``meeting``: the file through which the processes that train
    together find each other.
    """

    attempt: int | None = None
    lock: int | None = None
    token: str = ""
    meeting: Path | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Handover:
        """Return what the environment of a process holds; what is no number there counts as not given."""
        meeting = environ.get(_MEETING)
        return cls(
            attempt=_number(environ, _ATTEMPT),
            lock=_number(environ, _LOCK),
            token=environ.get(_TOKEN, ""),
            meeting=Path(meeting) if meeting else None,
        )

    def environ(self) -> dict[str, str]:
        """Return the variables that hand it over; what is not given is empty, whatever the parent's own says."""
        values = {_ATTEMPT: self.attempt, _LOCK: self.lock, _TOKEN: self.token, _MEETING: self.meeting}
        return {name: "" if value is None else str(value) for name, value in values.items()}


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else None
