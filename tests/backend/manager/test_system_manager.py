"""What the machine has and does: backend/manager/system_manager.py."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.manager import system_manager
from backend.manager.system_manager import (
    DiskForecast,
    NullGpuSensor,
    NvmlGpuSensor,
    SystemSample,
    SystemSampler,
    folder_bytes,
    forecast_disk,
    gpu_sensor,
    is_network_path,
)
from backend.run.folder import RunDir
from tests.fakes import FakeGpuSensor
from tests.locks import Meeting, both


def burn() -> None:
    for _ in range(300_000):
        pass


class TestSampling:
    def test_a_sample_is_of_this_machine(self, tmp_path: Path) -> None:
        sampler = SystemSampler(tmp_path)
        burn()
        sample = sampler.sample()
        sampler.close()
        assert 0 <= sample.cpu_percent <= 100
        assert 0 < sample.memory_used_bytes < sample.memory_total_bytes
        assert sample.disk_free_bytes > 0
        assert sample.to_json()["cpu_percent"] == sample.cpu_percent

    def test_w26_two_samplers_do_not_disturb_each_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        times = iter([(0.0, 0.0), (0.0, 0.0), (5.0, 10.0), (8.0, 20.0), (6.0, 20.0)])
        monkeypatch.setattr(system_manager, "_cpu_seconds", lambda: next(times))
        first, second = SystemSampler(tmp_path, NullGpuSensor()), SystemSampler(tmp_path, NullGpuSensor())
        assert first.sample().cpu_percent == 50.0
        assert second.sample().cpu_percent == 40.0
        assert first.sample().cpu_percent == 10.0

    def test_a_look_is_the_same_for_all_who_ask_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = iter([0.0, 0.002, 0.9, 1.0, 1.002])
        seconds = iter([(0.0, 0.0), (5.0, 10.0), (6.0, 20.0)])
        monkeypatch.setattr(system_manager.time, "monotonic", lambda: next(clock))
        monkeypatch.setattr(system_manager, "_cpu_seconds", lambda: next(seconds))
        sampler = SystemSampler(tmp_path, NullGpuSensor(), keep_seconds=1.0)
        assert [sampler.sample().cpu_percent for _ in range(5)] == [50.0, 50.0, 50.0, 10.0, 10.0]

    def test_two_who_ask_at_once_make_one_look(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sampler, meeting = SystemSampler(tmp_path, NullGpuSensor(), keep_seconds=60), Meeting()
        monkeypatch.setattr(sampler, "_look", meeting.within(sampler._look))
        seen: list[SystemSample] = []
        both(lambda: seen.append(sampler.sample()), lambda: seen.append(sampler.sample()))
        assert not meeting.happened
        assert seen[0] is seen[1]

    def test_no_time_between_two_looks_is_no_load(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(system_manager, "_cpu_seconds", lambda: (5.0, 10.0))
        assert SystemSampler(tmp_path, NullGpuSensor()).sample().cpu_percent == 0.0

    def test_gpus_come_from_the_sensor(self, tmp_path: Path) -> None:
        sensor = FakeGpuSensor()
        sampler = SystemSampler(tmp_path, sensor)
        assert sampler.sample().gpus[0].name == "Test GPU"
        sampler.close()
        assert sensor.closed


class FakeNvml:
    """The part of pynvml that we use, with one healthy and one broken GPU."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, driver: bool = True) -> None:
        self.driver = driver
        self.shut = False

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise self.NVMLError

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shut = True

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        if handle == 1:
            raise self.NVMLError
        return SimpleNamespace(used=1, total=8)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=70)

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return "H200"


class TestGpus:
    def test_f42_without_the_package_there_are_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", None)
        sensor = gpu_sensor()
        assert sensor.sample() == ()
        sensor.close()

    def test_f42_without_a_driver_there_are_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(driver=False))
        assert isinstance(gpu_sensor(), NullGpuSensor)

    def test_a_gpu_that_does_not_answer_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nvml = FakeNvml()
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        sensor = gpu_sensor()
        assert isinstance(sensor, NvmlGpuSensor)
        (gpu,) = sensor.sample()
        assert (gpu.name, gpu.memory_used_bytes, gpu.memory_total_bytes, gpu.busy_percent) == (
            "H200",
            1,
            8,
            70.0,
        )
        sensor.close()
        assert nvml.shut


class TestDisk:
    def test_a_run_without_a_checkpoint_needs_a_little(self, run: RunDir) -> None:
        forecast = forecast_disk(run)
        assert forecast.checkpoint_bytes == 0
        assert forecast.needed_bytes == 8 * 2**20
        assert forecast.is_enough

    def test_the_newest_checkpoint_is_the_measure(self, run: RunDir) -> None:
        for step, size in ((100, 10), (200, 50_000)):
            (run.checkpoint(step) / "sub").mkdir(parents=True)
            (run.checkpoint(step) / "sub" / "weights").write_bytes(b"x" * size)
        assert forecast_disk(run).checkpoint_bytes == 50_000

    @pytest.mark.parametrize(("free", "enough"), [(200 * 2**20, True), (200 * 2**20 - 1, False)])
    def test_two_more_checkpoints_must_fit(self, free: int, enough: bool) -> None:
        forecast = DiskForecast(Path("/runs/a"), free, 100 * 2**20)
        assert forecast.is_enough is enough
        assert forecast.describe() == (
            f"/runs/a has {free:,} bytes free; the next 2 checkpoints need 209,715,200."
        )

    def test_what_vanishes_counts_nothing(self, tmp_path: Path) -> None:
        assert folder_bytes(tmp_path / "missing") == 0
        (tmp_path / "a").write_bytes(b"123")
        (tmp_path / "dangling").symlink_to(tmp_path / "gone")
        assert folder_bytes(tmp_path) >= 3

    @pytest.mark.parametrize(("kind", "network"), [("nfs4", True), ("ext4", False), ("fuse.sshfs", True)])
    def test_network_file_systems(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, network: bool
    ) -> None:
        mounts = [
            SimpleNamespace(mountpoint="/", fstype="ext4"),
            SimpleNamespace(mountpoint=str(tmp_path), fstype=kind),
        ]
        monkeypatch.setattr(system_manager.psutil, "disk_partitions", lambda **_: mounts)
        assert is_network_path(tmp_path / "deep" / "down") is network

    def test_an_unknown_mount_is_not_a_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(system_manager.psutil, "disk_partitions", lambda **_: [])
        assert not is_network_path(tmp_path)
