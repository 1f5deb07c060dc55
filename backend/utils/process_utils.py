"""Identify a process for good, ask whether it lives, and signal it without ever hitting another process.

A pid alone does not do: pids are reused, and one that was written down outlives a reboot. An identity adds the start
time in clock ticks and the boot.
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
            raise ValueError(f"{self.pid!r} is not a usable process id")


def collect_rarely() -> None:
    """Make garbage collection rare and skip it at exit: a trainer starts and ends a quarter faster.

    Imports create many objects that stay, and a long run's records are a million more. At exit the interpreter would
    traverse all of them several times, to free memory that the process gives back anyway.
    """
    gc.set_threshold(100_000, 50, 100)
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def collect_as_usual() -> None:
    """Restore Python's usual garbage collection for a long-running process, leaving out all present objects."""
    gc.freeze()
    gc.set_threshold(700, 10, 10)


def identify(pid: int) -> ProcessIdentity:
    """The identity of a living process. Raises ProcessLookupError when there is none."""
    return ProcessIdentity(pid, _start_ticks(pid), boot_id())


def identify_started(pid: int) -> ProcessIdentity:
    """Return the identity of a process just started; if it has ended already, one that is not alive."""
    try:
        return identify(pid)
    except ProcessLookupError:
        return ProcessIdentity(pid, 0, boot_id())


def boot_id() -> str:
    """Return a text that changes with every boot of this machine."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        import psutil  # noqa: PLC0415  only needed where there is no /proc

        return str(int(psutil.boot_time()))


def is_alive(identity: ProcessIdentity) -> bool:
    """Return whether the process still runs; a zombie, a reused pid and another boot all count as gone."""
    if identity.boot_id != boot_id():
        return False
    try:
        return _start_ticks(identity.pid) == identity.start_ticks
    except ProcessLookupError:
        return False


def is_suspended(identity: ProcessIdentity) -> bool:
    """Return whether the process lives and is stopped by a signal (SIGSTOP, Ctrl-Z) or a debugger."""
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
    """Return whether the process lives and has a handler for a signal; False where there is no /proc."""
    try:
        status = (_PROC / str(identity.pid) / "status").read_text("latin-1")
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return is_alive(identity) and bool(int(caught, 16) >> (signal_number - 1) & 1)


def send_signal(identity: ProcessIdentity, signal_number: signal.Signals) -> bool:
    """Send a signal to the process; return False, and send nothing, if it is gone or its pid was reused.

    On Linux the signal goes through a pidfd opened before the check, so that the pid cannot be reused in between.
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
    """Return the clock ticks from boot to the start of a living process (proc(5), field 22 of stat)."""
    if not (_PROC / "self/stat").exists():
        return _start_ticks_elsewhere(pid)
    state, *fields = _stat(pid)
    if state in "ZX":
        raise ProcessLookupError(f"process {pid} has ended")
    return int(fields[18])


def _stat(pid: int) -> list[str]:
    """Return the fields of proc(5) stat after the program's name: the state first."""
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
