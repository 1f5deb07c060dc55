"""Which process is meant, whether it lives, and a signal that can never reach a stranger.

A pid alone is no name: it is reused, and it survives a reboot on paper. An identity adds the start time in
clock ticks and the boot.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessIdentity:
    """One process on one boot: ``start_ticks`` are clock ticks since that boot (0 when it was never seen).

    Raises ValueError for a pid that a signal must never be sent to (0, 1, negative, not a whole number).
    """

    pid: int
    start_ticks: int
    boot_id: str

    def __post_init__(self) -> None:
        if type(self.pid) is not int or self.pid <= 1:
            raise ValueError(f"{self.pid!r} is no process id of ours")


def collect_rarely() -> None:
    """Let this process look for garbage seldom, and not at its end: a trainer starts and ends a quarter faster.

    Thousands of modules are about to come and to stay, and a long run's records are a million objects. At the end the
    interpreter would go through all of them, several times over, only to give back what goes with the process.
    """
    gc.set_threshold(100_000, 50, 100)
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def collect_as_usual() -> None:
    """Look for garbage as often as Python does, but not among what is here by now: for what goes on for long."""
    gc.freeze()
    gc.set_threshold(700, 10, 10)


def identify(pid: int) -> ProcessIdentity:
    """The identity of a living process. Raises ProcessLookupError when there is none."""
    return ProcessIdentity(pid, _start_ticks(pid), boot_id())


def identify_started(pid: int) -> ProcessIdentity:
    """The identity of a process that was started a moment ago: one that is not alive when it has ended since."""
    try:
        return identify(pid)
    except ProcessLookupError:
        return ProcessIdentity(pid, 0, boot_id())


def boot_id() -> str:
    """A text that changes with every boot of this machine."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        import psutil  # noqa: PLC0415  only needed where there is no /proc

        return str(int(psutil.boot_time()))


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether that very process still runs; a zombie, a reused pid and another boot all count as gone."""
    if identity.boot_id != boot_id():
        return False
    try:
        return _start_ticks(identity.pid) == identity.start_ticks
    except ProcessLookupError:
        return False


def is_suspended(identity: ProcessIdentity) -> bool:
    """Whether that very process lives and is stopped by a signal (SIGSTOP, Ctrl-Z) or a debugger."""
    if not is_alive(identity):
        return False
    try:
        if (_PROC / "self/stat").exists():
            return _stat(identity.pid)[0] in "Tt"
        import psutil  # noqa: PLC0415  only needed where there is no /proc

        return bool(psutil.Process(identity.pid).status() == psutil.STATUS_STOPPED)
    except (ProcessLookupError, ImportError):
        return False


def catches(identity: ProcessIdentity, signal_number: signal.Signals) -> bool:
    """Whether that very process lives and handles a signal itself; False where the system does not say."""
    try:
        status = (_PROC / str(identity.pid) / "status").read_text("latin-1")
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return is_alive(identity) and bool(int(caught, 16) >> (signal_number - 1) & 1)


def send_signal(identity: ProcessIdentity, signal_number: signal.Signals) -> bool:
    """Signal that very process; False, and nothing sent, when it is gone or the pid is another's by now.

    On Linux the signal goes through a pidfd opened before the check, so the pid cannot change hands between.
    """
    if not hasattr(os, "pidfd_open"):
        return is_alive(identity) and _kill(identity.pid, signal_number)
    try:
        descriptor = os.pidfd_open(identity.pid)
    except OSError:
        return False
    try:
        if not is_alive(identity):
            return False
        signal.pidfd_send_signal(descriptor, signal_number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def _kill(pid: int, signal_number: signal.Signals) -> bool:
    try:
        os.kill(pid, signal_number)
    except ProcessLookupError:
        return False
    return True


def _start_ticks(pid: int) -> int:
    """Clock ticks from boot to the start of a living process (proc(5), field 22 of stat)."""
    if not (_PROC / "self/stat").exists():
        return _start_ticks_elsewhere(pid)
    state, *fields = _stat(pid)
    if state in "ZX":
        raise ProcessLookupError(f"process {pid} has ended")
    return int(fields[18])


def _stat(pid: int) -> list[str]:
    """The fields of proc(5) stat behind the program's name: the state first."""
    try:
        return (_PROC / str(pid) / "stat").read_text("latin-1").rpartition(")")[2].split()
    except OSError as error:
        raise ProcessLookupError(f"no process {pid}") from error


def _start_ticks_elsewhere(pid: int) -> int:
    import psutil  # noqa: PLC0415  only needed where there is no /proc

    try:
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        started = process.create_time()
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(f"no process {pid}") from error
    if ended:
        raise ProcessLookupError(f"process {pid} has ended")
    return round(started * 100)
