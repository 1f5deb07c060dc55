"""The processes of one attempt, and the only place that signals them.

A process belongs to an attempt when it is the recorded one (pid, start time and boot all agree) or carries
the attempt's token in its environment; nothing else is ever signalled. Control wing: F0 and psutil.
"""

from __future__ import annotations

import signal

import psutil

from backend.reports import Attempt
from backend.utils.process_utils import ProcessIdentity, identify, is_alive, send_signal

TOKEN = "TUNESMITH_RUN_TOKEN"  # noqa: S105  a mark, no secret


def members(attempt: Attempt) -> list[ProcessIdentity]:
    """Every living process of the attempt: the trainer and whatever it started."""
    found = [attempt.process] if attempt.process and is_alive(attempt.process) else []
    if attempt.token:
        known = {identity.pid for identity in found}
        found += [one for one in _carriers(attempt.token) if one.pid not in known]
    return found


def ask_to_end(attempt: Attempt) -> bool:
    """SIGTERM to the trainer alone, so that its helpers live while it saves; False when it is gone."""
    return attempt.process is not None and send_signal(attempt.process, signal.SIGTERM)


def kill_all(attempt: Attempt) -> int:
    """SIGKILL to every process of the attempt, those that appear meanwhile included; how many were hit."""
    killed: set[ProcessIdentity] = set()
    while fresh := [one for one in members(attempt) if one not in killed]:
        for identity in fresh:
            send_signal(identity, signal.SIGKILL)
            killed.add(identity)
    return len(killed)


def _carriers(token: str) -> list[ProcessIdentity]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(TOKEN) == token:
                found.append(identify(process.pid))
        except (psutil.Error, ProcessLookupError, ValueError, OSError):
            continue  # gone meanwhile, or somebody else's
    return found
