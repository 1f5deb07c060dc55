"""The process that keeps a queue moving in the background: it waits until a run ends, then starts the next.

``python -m backend.manager.queue_watch ROOT`` lives only while a run waits that can be started; it is no service. A
supervisor that ends starts the next run too; this process is for supervisors that were killed and for runs without
one.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from backend.manager.programs import QUEUE_WATCH, child_environ, python_command
from backend.manager.queue_manager import QueueManager
from backend.run.folder import RunDir
from backend.utils.detach import spawn_detached
from backend.utils.lock_utils import LockedError, hold_lock, is_locked

LOOK_SECONDS = 1.0
LONGEST_SECONDS = 30.0
"""After so long it looks at the whole queue again, whether a run has ended or not."""
_LOCK = ".queue-watch.lock"
_LOG = ".queue-watch.log"


def move_on(queue: QueueManager) -> list[RunDir]:
    """Start what has its turn and return these runs; where more waits, see that it starts without anybody looking.

    Raises OSError when the folder of the runs cannot be written.
    """
    started = queue.schedule()
    if queue.moves() and not is_locked(queue.root / _LOCK):
        spawn_detached(
            python_command(QUEUE_WATCH, str(queue.root)),
            log=queue.root / _LOG,
            environ=child_environ(),
        )
    return started


def watch(queue: QueueManager, look_seconds: float = LOOK_SECONDS) -> None:
    """Move the queue until nothing in it will have a turn any more."""
    while True:
        before = (
            queue.at_work()
        )  # asked first: one that ends while the queue is looked at is missed otherwise
        started = queue.schedule()
        if not started and not queue.moves():
            return
        _until_one_ends([*before, *started], look_seconds)


def _until_one_ends(runs: Sequence[RunDir], look_seconds: float) -> None:
    """Wait for one look at least, and then while all of ``runs``, where there are any, are at work."""
    deadline = time.monotonic() + LONGEST_SECONDS
    time.sleep(look_seconds)
    while runs and time.monotonic() < deadline and all(run.is_held() for run in runs):
        time.sleep(look_seconds)


def main(argv: Sequence[str]) -> int:
    """Run the process; return 0 once nothing is left to move, or another process sees to it."""
    queue = QueueManager(Path(argv[0]))
    with contextlib.suppress(LockedError, FileNotFoundError):  # another one, or the whole folder is gone
        # asked once more after the lock is free again: who saw it held did not start another watch
        while queue.moves():
            with hold_lock(queue.root / _LOCK, wait_seconds=0):
                watch(queue)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
