"""The two locks of a run: one for the process that works on it, one that its readers share.

Only ``run_dir`` uses this room.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from backend.errors import NextStep, RunError
from backend.run.handover import Handover
from backend.utils.lock_utils import LockedError, hold_folder, hold_lock, share_folder, share_lock

T = TypeVar("T")


@dataclass(frozen=True)
class RunLocks:
    """``work_file`` is held alone by who trains, ``folder`` together by who reads, both alone by who deletes."""

    folder: Path
    work_file: Path

    @property
    def run(self) -> str:
        """The run's name."""
        return self.folder.name

    @contextmanager
    def work(self) -> Iterator[tuple[int, bool]]:
        """Hold the run as its one worker: the lock's descriptor, and whether it was inherited from a supervisor.

        Raises RunError ``already-running`` or ``no-such-run``.
        """
        inherited = Handover.of(os.environ).lock
        with ExitStack() as stack:
            descriptor = self._enter(
                stack, hold_lock(self.work_file, inherited=inherited), self._is_worked_on()
            )
            yield descriptor, descriptor == inherited

    @contextmanager
    def read(self) -> Iterator[None]:
        """Hold the run as one of its readers, which writes nothing. Raises RunError ``no-such-run``."""
        with ExitStack() as stack:
            self._enter(stack, share_folder(self.folder), self._is_gone())
            yield

    @contextmanager
    def still(self) -> Iterator[None]:
        """Hold the run at rest while it is copied, without writing into its folder, which may be somebody else's.

        Raises RunError ``already-running`` or ``no-such-run``.
        """
        with self.read(), ExitStack() as stack:
            if self.work_file.exists():
                self._enter(stack, share_lock(self.work_file), self._is_worked_on())
            yield

    @contextmanager
    def delete(self) -> Iterator[None]:
        """Hold the run against workers and readers. Raises RunError (``already-running``, ``in-use``, …)."""
        with ExitStack() as stack:
            stack.enter_context(self.work())
            self._enter(stack, hold_folder(self.folder), self._is_in_use())
            yield

    def _enter(self, stack: ExitStack, lock: AbstractContextManager[T], refusal: RunError) -> T:
        try:
            return stack.enter_context(lock)
        except LockedError as error:
            raise refusal from error
        except FileNotFoundError as error:
            raise self._is_gone() from error

    def _is_worked_on(self) -> RunError:
        return RunError(
            f"The run {self.run} is being worked on already.",
            remedy="Wait until it is over, or stop it.",
            code="already-running",
            next_step=NextStep.WATCH,
            about=self.run,
        )

    def _is_in_use(self) -> RunError:
        return RunError(
            f"The run {self.run} is in use: it is being served, exported or sent.",
            remedy="Stop the server, or let the export end; then delete the run.",
            code="in-use",
            next_step=NextStep.STOP_SERVER,
        )

    def _is_gone(self) -> RunError:
        return gone(self.run)


def gone(run: str) -> RunError:
    """The error for a run that was there a moment ago: ``no-such-run``."""
    return RunError(
        f"The run {run} is gone or being deleted.",
        remedy="Choose another.",
        code="no-such-run",
        next_step=NextStep.LIST_RUNS,
    )
