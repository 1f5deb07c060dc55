"""F14: a disk that fills up during a save, a real one of 20 MB; the checkpoint before it must stand."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backend.run.folder import RunDir
from backend.run.settings import parse_config
from backend.utils.config_utils import parse_yaml
from tests.faults.conftest import MakeRun

_MOUNTED = "mount -t tmpfs -o size=20m tmpfs {0} && exec {1} {2} {0} {3}"
_CAN_MOUNT = (
    shutil.which("unshare") is not None
    and not subprocess.run(
        ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False, capture_output=True
    ).returncode
)


@pytest.mark.skipif(not _CAN_MOUNT, reason="this machine lets nobody mount a small disk (unshare -Urm)")
def test_f14_the_checkpoint_before_stands_and_the_run_goes_on(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "model-run", save_total_limit=2)
    parse_config(parse_yaml(run.read_config_text(), where="config"))
    place = tmp_path / "disk"
    place.mkdir()
    script = Path(__file__).parent / "small_disk.py"
    command = _MOUNTED.format(
        *(shlex.quote(str(path)) for path in (place, sys.executable, script, run.config))
    )
    ended = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", command], capture_output=True, text=True, check=False, timeout=240
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    told = json.loads(ended.stdout.splitlines()[-1])
    assert (told["full"]["status"], told["full"]["code"]) == ("failed", "disk-full")
    assert "bytes" in told["full"]["message"]
    assert "checkpoints/step-" in told["full"]["message"]
    assert told["checkpoint_after_full"] == 2
    assert told["complaints"] == []
    assert told["temporaries"] == []
    assert told["resumed"]["status"] == "finished"
    assert RunDir(run.path).latest_attempt_number() == 0
