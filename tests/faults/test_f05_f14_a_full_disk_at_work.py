"""F05, F14: a real run on a real disk of 24 MB that somebody else fills can be stopped and killed, and says why."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.test_f14_disk_full import _CAN_MOUNT
from tests.runs import LONG, learner_folder, make_run, write_rows

_SCRIPT = Path(__file__).parent / "full_disk_at_work.py"


@pytest.mark.skipif(not _CAN_MOUNT, reason="this machine lets nobody mount a small disk (unshare -Urm)")
@pytest.mark.parametrize(
    ("how", "ends"),
    [("stop", {"disk-full"}), ("kill", {"disk-full", "ended-at-once"})],
)
def test_a_run_on_a_full_disk_ends_and_says_why(tmp_path: Path, how: str, ends: set[str]) -> None:
    model, rows = learner_folder(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
    config = make_run(tmp_path / "runs", model, rows, LONG).config
    disk = tmp_path / "disk"
    disk.mkdir()
    words = [sys.executable, str(_SCRIPT), str(disk), str(config), how]
    command = f"mount -t tmpfs -o size=24m tmpfs {shlex.quote(str(disk))} && exec {shlex.join(words)}"
    ended = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", command], capture_output=True, text=True, check=False, timeout=240
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["left"] == 0
    assert told["reason"] in ends, told
    assert "bytes" in told["message"]
    assert str(disk) in told["message"]
    assert told["ended"]
    assert told["supervisor"] == ""
