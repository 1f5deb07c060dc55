"""Run inside a small disk: a real run at work, a disk that somebody else fills, and then a stop or a kill.

``python full_disk_at_work.py DISK CONFIG stop|kill`` says as JSON how it ended, and how it reads once there is room.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from backend.errors import RunError
from backend.manager import process_manager
from backend.run.folder import RunDir
from backend.utils.file_utils import free_bytes
from tests.eventually import eventually
from tests.runs import lines


def main(disk: Path, config: Path, how: str) -> None:
    run = RunDir.create(disk, "tiny", config.read_text("utf-8").rpartition("# end of config")[0])
    process_manager.start(run)
    eventually(lambda: len(lines(run.metrics_file)) >= 2, timeout_seconds=120)
    fill(disk / "filler")
    end = {"stop": process_manager.stop, "kill": process_manager.kill}[how]
    left = free_bytes(disk)
    with suppress(RunError):  # the trainer may have noticed before us
        end(run)
    eventually(lambda: not run.is_held(), timeout_seconds=60)
    (disk / "filler").unlink()
    state = run.state()
    told = {"left": left, "status": str(state.status), "reason": state.reason, "message": state.message}
    attempt = run.latest_attempt()
    told["ended"] = attempt is not None and attempt.end is not None
    told["supervisor"] = run.supervisor_log.read_text("utf-8")
    sys.stdout.write(json.dumps(told) + "\n")


def fill(filler: Path) -> None:
    """Write until nothing more can be written."""
    descriptor = os.open(filler, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    size = 2**20
    while size:
        try:
            size = size if os.write(descriptor, b"x" * size) == size else size // 2
        except OSError:
            size //= 2
    os.close(descriptor)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
