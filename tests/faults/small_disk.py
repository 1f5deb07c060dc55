"""Run inside a small disk: train, fill the disk after step 3, look, make room, resume; says what happened as JSON.

``python small_disk.py DISK CONFIG``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from backend import trainer_main
from backend.run.folder import RunDir
from backend.run.reports import Progress, StepReport
from backend.training.checkpoint import newest_good
from backend.utils.file_utils import free_bytes
from backend.utils.process_utils import collect_rarely
from backend.utils.record_utils import record_to_json

LEFT_BYTES = 64 * 1024


def main(disk: Path, config: Path) -> None:
    run = RunDir.create(disk, "tiny", config.read_text("utf-8").rpartition("# end of config")[0])
    filler = disk / "filler"

    def fill(progress: Progress) -> None:
        if isinstance(progress.report, StepReport) and progress.report.step == 3:
            filler.write_bytes(b"x" * max(0, free_bytes(disk) - LEFT_BYTES))

    full = trainer_main.run(run, fill)
    checkpoint, complaints = newest_good(run.checkpoints)
    temporaries = [path.name for path in disk.rglob("*.tmp")]
    filler.unlink()
    resumed = trainer_main.run(run)
    told = {
        "full": record_to_json(full),
        "resumed": record_to_json(resumed),
        "checkpoint_after_full": checkpoint.step if checkpoint else 0,
        "complaints": complaints,
        "temporaries": temporaries,
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    collect_rarely()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
