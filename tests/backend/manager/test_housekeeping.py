"""Samples, log, disk and signs of life of an active run: backend/manager/housekeeping.py."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backend.manager import housekeeping
from backend.manager.alerts import Alert, AlertSettings
from backend.manager.housekeeping import Housekeeping, cap_log, health
from backend.run.environment import Environment
from backend.run.folder import RunDir
from backend.run.pace import Health
from backend.utils.jsonl_utils import read_jsonl_tail
from tests.eventually import eventually


@pytest.fixture
def keeper(run: RunDir) -> Housekeeping:
    return Housekeeping(run, log_limit_bytes=1000, interval_seconds=0.0)


def test_each_tick_samples_the_machine(keeper: Housekeeping, run: RunDir) -> None:
    keeper.tick()
    keeper.tick()
    keeper.close()
    samples = read_jsonl_tail(run.system_file).records
    assert len(samples) == 2
    assert isinstance(samples[0]["memory_total_bytes"], int)


def test_nothing_is_done_before_it_is_due(run: RunDir) -> None:
    keeper = Housekeeping(run, log_limit_bytes=1000, interval_seconds=3600)
    keeper.tick()
    keeper.tick()
    keeper.close()
    assert len(read_jsonl_tail(run.system_file).records) == 1


def test_f14_a_disk_that_fills_up_pauses_the_run(
    keeper: Housekeeping, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.manager.system_manager.free_bytes", lambda _: 1000)
    keeper.tick()
    keeper.close()
    assert run.stop_requested() == "disk-low"


def test_f14_a_request_that_is_there_is_left_as_it_is(
    keeper: Housekeeping, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.request_stop("paused")
    monkeypatch.setattr("backend.manager.system_manager.free_bytes", lambda _: 1000)
    keeper.tick()
    keeper.close()
    assert run.stop_requested() == "paused"


def test_f15_a_full_disk_stops_no_housekeeping(
    keeper: Housekeeping, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(housekeeping, "JsonlWriter", refuse)
    keeper.tick()
    keeper.close()
    assert not run.system_file.exists()


def test_f14_a_request_that_cannot_be_written_is_a_wish(
    keeper: Housekeeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("backend.manager.system_manager.free_bytes", lambda _: 0)
    monkeypatch.setattr("backend.run.folder.write_json_durably", refuse)
    assert not keeper.wants_stop
    keeper.tick()
    keeper.close()
    assert keeper.wants_stop


def test_f06_silence_is_told_once(keeper: Housekeeping, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Alert] = []
    talking, silent, suspended = Health(0.0, False), Health(9999.0, False), Health(0.0, True)
    moods = iter([talking, silent, silent, talking, suspended])

    def tell(alert: Alert, _: AlertSettings) -> tuple[str, ...]:
        told.append(alert)
        return ()

    monkeypatch.setattr(housekeeping, "health", lambda _: next(moods))
    monkeypatch.setattr(housekeeping, "send", tell)
    for _ in range(5):
        keeper.tick()
    keeper.close()
    assert [alert.reason for alert in told] == ["not-responding", "not-responding"]


class TestCappingLogs:
    def test_a_short_log_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_bytes(b"x" * 100)
        assert not cap_log(tmp_path / "log", 100)
        assert not cap_log(tmp_path / "missing", 100)

    def test_a_long_one_keeps_its_second_half_beside_it(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_bytes(b"a" * 60 + b"b" * 50)
        assert cap_log(tmp_path / "log", 100)
        assert (tmp_path / "log").read_bytes() == b""
        assert (tmp_path / "log.1").read_bytes() == b"b" * 50
        assert stat.S_IMODE((tmp_path / "log.1").stat().st_mode) == 0o600

    def test_f27_a_living_writer_goes_on_in_the_same_file(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        program = (
            "import sys\nfor line in sys.stdin: print(line.strip() * 50, flush=True)\nprint('the last line')"
        )
        with log.open("ab") as stream:
            writer = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=stream, text=True
            )
        assert writer.stdin is not None
        writer.stdin.write("noise\n" * 100)
        writer.stdin.flush()
        eventually(lambda: cap_log(log, 2000))
        writer.stdin.close()
        writer.wait()
        assert log.read_text().endswith("the last line\n")
        assert b"\0" not in log.read_bytes()
        assert (tmp_path / "log.1").read_bytes().endswith(b"noise\n")


def test_the_latest_attempt_is_the_one_that_counts(run: RunDir) -> None:
    run.begin_attempt(("a",), pid=os.getpid())
    assert health(run).is_responding


def test_a_damaged_record_leaves_the_silence(run: RunDir) -> None:
    run.begin_attempt(("a",), pid=os.getpid())
    run.write_environment(Environment())
    run.attempt_file(1).write_text("{")
    an_hour_ago = time.time() - 3600
    for path in (run.environment, run.attempts):
        os.utime(path, (an_hour_ago, an_hour_ago))
    assert not health(run).is_suspended
    assert health(run).silent_seconds > 3000
