"""The processes that train one run together: started as one, watched as one.

Each gets the variables that torchrun would set (``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``, ``LOCAL_WORLD_SIZE``). They
are our own children and not torchrun's, so that each inherits the run's lock and the exit of each is seen. They meet
through a file and talk over the loopback interface. On several machines torchrun itself starts them.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from backend.errors import ConfigError
from backend.manager.programs import TRAINER
from backend.run.folder import RunDir
from backend.run.handover import Handover
from backend.run.settings import run_config
from backend.utils.file_utils import temporary_name

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
"""What tells a process its place among those that train together."""
PEER_SECONDS = 5.0
"""How long the others live on after one rank has failed: time to write down why."""


class Ranks:
    """The processes of one attempt, rank 0 first."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]], meeting: Path | None = None) -> None:
        self._processes = tuple(processes)
        self._meeting = meeting
        self._failed_at: float | None = None
        self._ended_by_us: set[int] = set()

    @property
    def pid(self) -> int:
        """The process that writes: rank 0."""
        return self._processes[0].pid

    @property
    def returncode(self) -> int:
        """The most telling end, once all have ended: a signal (negative) before an exit code before 0."""
        codes = [one.returncode for one in self._processes if one.pid not in self._ended_by_us]
        return min((code for code in codes if code < 0), default=max(codes, default=0))

    def wait(self, seconds: float) -> bool:
        """Wait a little; True once every process has ended. One that fails takes the others with it."""
        living = [one for one in self._processes if one.poll() is None]
        if not living:
            self._forget_meeting()
            return True
        if any(one.returncode for one in self._processes):
            self._failed_at = self._failed_at or time.monotonic()
            if time.monotonic() - self._failed_at > PEER_SECONDS:
                self._end(living)
        with contextlib.suppress(subprocess.TimeoutExpired):
            living[0].wait(seconds)
        return False

    def _end(self, living: Sequence[subprocess.Popen[bytes]]) -> None:
        for one in living:
            self._ended_by_us.add(one.pid)
            one.kill()

    def close(self) -> None:
        """End whatever still lives, at once."""
        self._end([one for one in self._processes if one.poll() is None])
        for one in self._processes:
            one.wait()
        self._forget_meeting()

    def _forget_meeting(self) -> None:
        if self._meeting:
            self._meeting.unlink(missing_ok=True)


def nproc_per_node(run: RunDir) -> int:
    """Return how many processes train this run on one machine. Raises RunError when its configuration is damaged."""
    return _asked(run)[0]


def torchrun_command(run: RunDir) -> str:
    """Return the command to type on each of several machines to train this run; "" for a run of one machine.

    Raises RunError when its configuration is damaged.
    """
    processes, machines = _asked(run)
    if machines == 1:
        return ""
    words = ["torchrun", f"--nnodes={machines}", f"--nproc-per-node={processes}"]
    words += ["--rdzv-backend=c10d", f"--rdzv-id={run.id}", "--rdzv-endpoint=FIRST_MACHINE:29500"]
    return shlex.join([*words, "-m", TRAINER, str(run.path)])


def _asked(run: RunDir) -> tuple[int, int]:
    """Processes on a machine, and machines, as the trainer reads them.

    One of each where it can use nothing of what it reads: that one says so.
    """
    try:
        training = run_config(run).training
    except ConfigError:
        return 1, 1
    return training.nproc_per_node, training.nnodes


def launch(
    command: Sequence[str], environ: Mapping[str, str], handover: Handover, *, run: RunDir, count: int
) -> Ranks:
    """Start ``command`` ``count`` times, each in a session of its own, printing to the run's log.

    Each gets the ``handover``, and where there are several a file to meet through. The place of whoever starts them
    is not handed on. Raises OSError when one cannot be started; none is left then.
    """
    meeting = temporary_name(run.path / "meeting") if count > 1 else None
    own = {name: value for name, value in environ.items() if name not in RANK_VARIABLES}
    own |= replace(handover, meeting=meeting).environ()
    log = os.open(run.train_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(count):
            started.append(  # noqa: PERF401  those that came up must be known when one does not
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**own, **(_rank_environ(rank, count) if count > 1 else {})},
                    pass_fds=() if handover.lock is None else (handover.lock,),
                    start_new_session=True,
                )
            )
    except OSError:
        Ranks(started).close()
        raise
    finally:
        os.close(log)
    return Ranks(started, meeting)


def _rank_environ(rank: int, count: int) -> dict[str, str]:
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
    }
