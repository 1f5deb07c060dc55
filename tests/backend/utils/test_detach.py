"""A process that outlives its starter: backend/utils/detach.py, with real processes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from backend.utils.detach import spawn_detached
from backend.utils.process_utils import identify, is_alive, send_signal
from tests.eventually import eventually


def test_it_runs_apart_from_us_and_writes_into_its_log(tmp_path: Path) -> None:
    program = "import os, sys, time; print(os.environ['GREETING'], flush=True); time.sleep(60)"
    log = tmp_path / "log"
    pid = spawn_detached([sys.executable, "-c", program], log=log, environ={"GREETING": "hello"})
    child = identify(pid)
    try:
        eventually(lambda: log.read_text() == "hello\n")
        assert os.getsid(pid) != os.getsid(0)
        assert pid not in [one.pid for one in psutil.Process().children(recursive=True)]
    finally:
        send_signal(child, signal.SIGKILL)
    eventually(lambda: not is_alive(child))


def test_it_inherits_the_descriptors_it_is_given_and_no_others(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        program = (
            "import os, sys\n"
            "try:\n"
            "    os.fstat(int(sys.argv[2]))\n"
            "    told = b'sees it'\n"
            "except OSError:\n"
            "    told = b'blind'\n"
            "os.write(int(sys.argv[1]), told)"
        )
        command = [sys.executable, "-c", program, str(writer), str(secret.fileno())]
        spawn_detached(command, log=tmp_path / "log", environ={}, pass_fds=(writer,))
        os.close(writer)
        assert os.read(reader, 100) == b"blind"
    os.close(reader)


def test_a_program_that_is_not_there_is_in_the_log(tmp_path: Path) -> None:
    spawn_detached(["/no/such/program"], log=tmp_path / "log", environ={})
    eventually(lambda: "FileNotFoundError" in (tmp_path / "log").read_text())


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spawn_detached([sys.executable], log=tmp_path / "gone" / "log", environ={})


def test_a_launcher_that_fails_is_an_error_that_names_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.utils.detach.sys.executable", "/bin/false")
    with pytest.raises(OSError, match="could not be started; see"):
        spawn_detached(["/bin/true"], log=tmp_path / "log", environ={})
