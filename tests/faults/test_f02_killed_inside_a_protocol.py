"""F02, F40: killed just before each durable operation of each protocol, what is left is old or new."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.protocols import PROTOCOLS, Protocol

_PROGRAM = """
import json, os, pathlib, sys, traceback
from backend.utils.file_utils import CRASHPOINT, file_system
from tests.faults.protocols import PROTOCOLS

protocols = {one.name: one for one in PROTOCOLS}
codes = {}
for folder in map(pathlib.Path, sys.argv[1:]):
    name, point = folder.name.split("-")
    child = os.fork()
    if not child:
        try:
            os.environ[CRASHPOINT] = f"{name}:{point}"
            protocols[name].act(folder, file_system(name))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    codes[folder.name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(codes))
"""
OPERATIONS = {"record": 4, "create": 6, "save": 7, "delete": 2}
POINTS = [(protocol, point) for protocol in PROTOCOLS for point in range(1, OPERATIONS[protocol.name] + 1)]
BEYOND = [(protocol, OPERATIONS[protocol.name] + 1) for protocol in PROTOCOLS]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each protocol and point, where it was carried out by a child that died just before that point."""
    root = tmp_path_factory.mktemp("points")
    for protocol, point in [*POINTS, *BEYOND]:
        folder = root / f"{protocol.name}-{point}"
        folder.mkdir()
        protocol.prepare(folder)
    folders = [str(folder) for folder in root.iterdir()]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *folders],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    (root / "codes").write_text(done.stdout)
    return root


def code_of(root: Path, folder: Path) -> int:
    codes: dict[str, int] = json.loads((root / "codes").read_text())
    return codes[folder.name]


@pytest.mark.parametrize(("protocol", "point"), POINTS, ids=lambda value: getattr(value, "name", str(value)))
def test_f02_old_or_new(protocol: Protocol, point: int, root: Path) -> None:
    folder = root / f"{protocol.name}-{point}"
    assert code_of(root, folder) == -signal.SIGKILL
    assert protocol.judge(folder, False) == ""


@pytest.mark.parametrize(("protocol", "point"), BEYOND, ids=lambda value: getattr(value, "name", str(value)))
def test_f02_there_is_no_further_operation(protocol: Protocol, point: int, root: Path) -> None:
    folder = root / f"{protocol.name}-{point}"
    assert code_of(root, folder) == 0
    assert protocol.judge(folder, True) == ""
