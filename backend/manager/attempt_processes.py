"""The processes of one attempt, and the only place that signals them.

A process belongs to an attempt when it is the recorded one (pid, start time and boot all agree) or carries
the attempt's token in its environment; nothing else is ever signalled. Two attempts have no processes for us: one
that began in another folder, since this one is a copy of it, and one in a person's own command, script or notebook.
Control wing: F0 and psutil.
"""

from __future__ import annotations

import signal

import psutil

from backend.run.files import RunFiles
from backend.run.handover import Handover
from backend.run.reports import Attempt
from backend.utils.process_utils import ProcessIdentity, catches, identify, is_alive, send_signal


def members(run: RunFiles, attempt: Attempt) -> list[ProcessIdentity]:
    """Every living process of the run's attempt: the trainer and whatever it started."""
    if attempt.is_own_process or not _began_here(run, attempt):
        return []
    found = [attempt.process] if attempt.process and is_alive(attempt.process) else []
    if attempt.token:
        known = {identity.pid for identity in found}
        found += [one for one in _carriers(attempt.token) if one.pid not in known]
    return found


def is_supervised(run: RunFiles, attempt: Attempt) -> bool:
    """Whether a supervisor of this very folder lives and looks after the attempt."""
    return attempt.supervisor is not None and _began_here(run, attempt) and is_alive(attempt.supervisor)


def ask_to_end(run: RunFiles, attempt: Attempt) -> bool:
    """SIGTERM to the trainer alone, so that its helpers live while it saves; False when it is gone.

    A person's own process gets it only where it catches it and so saves, instead of dying of it.
    """
    if attempt.process is None or not _began_here(run, attempt):
        return False
    if attempt.is_own_process and not catches(attempt.process, signal.SIGTERM):
        return False
    return send_signal(attempt.process, signal.SIGTERM)


def kill_all(run: RunFiles, attempt: Attempt) -> int:
    """SIGKILL to every process of the attempt, those that appear meanwhile included; how many were hit."""
    killed: set[ProcessIdentity] = set()
    while fresh := [one for one in members(run, attempt) if one not in killed]:
        for identity in fresh:
            send_signal(identity, signal.SIGKILL)
            killed.add(identity)
    return len(killed)


def _began_here(run: RunFiles, attempt: Attempt) -> bool:
    return bool(attempt.folder) and attempt.folder == run.mark


def _carriers(token: str) -> list[ProcessIdentity]:
    found = []
    for process in psutil.process_iter():
        try:
            if Handover.of(process.environ()).token == token:
                found.append(identify(process.pid))
        except (psutil.Error, ProcessLookupError, ValueError, OSError):
            continue  # gone meanwhile, or somebody else's
    return found
