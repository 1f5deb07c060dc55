"""F02, F40: killed just before each durable operation of each protocol, what is left is old or new."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backend.utils.file_utils import CRASHPOINT
from tests.faults.protocols import PROTOCOLS, Protocol

_PROGRAM = (
    "import sys, pathlib\n"
    "from backend.utils.file_utils import file_system\n"
    "from tests.faults.protocols import PROTOCOLS\n"
    "protocol = {one.name: one for one in PROTOCOLS}[sys.argv[1]]\n"
    "protocol.act(pathlib.Path(sys.argv[2]), file_system(protocol.name))\n"
)
OPERATIONS = {"record": 4, "create": 6, "save": 7, "delete": 2}
POINTS = [(protocol, point) for protocol in PROTOCOLS for point in range(1, OPERATIONS[protocol.name] + 1)]


def act(protocol: Protocol, root: Path, point: int) -> int:
    """Carry a protocol out in a child that dies before its ``point``-th operation; its return code."""
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, protocol.name, str(root)],
        env={**os.environ, CRASHPOINT: f"{protocol.name}:{point}"},
        cwd=Path(__file__).parents[2],
        check=False,
    ).returncode


@pytest.mark.parametrize(("protocol", "point"), POINTS, ids=lambda value: getattr(value, "name", str(value)))
def test_f02_old_or_new(protocol: Protocol, point: int, tmp_path: Path) -> None:
    protocol.prepare(tmp_path)
    assert act(protocol, tmp_path, point) == -signal.SIGKILL
    assert protocol.judge(tmp_path, False) == ""


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_f02_there_is_no_further_operation(protocol: Protocol, tmp_path: Path) -> None:
    protocol.prepare(tmp_path)
    assert act(protocol, tmp_path, OPERATIONS[protocol.name] + 1) == 0
    assert protocol.judge(tmp_path, True) == ""
