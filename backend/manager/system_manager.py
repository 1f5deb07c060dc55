"""Sample the machine (processor, memory, disk, GPUs) and predict if the disk has room for the next checkpoints.

GPUs are read by nvidia-ml-py if it is installed; without a GPU the list is empty.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from backend.run.folder import RunDir
from backend.run.records import utc_now
from backend.utils.file_utils import free_bytes
from backend.utils.machine_utils import available_memory

MIN_FREE_BYTES = 8 * 2**20
CHECKPOINTS_AHEAD = 2
_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "lustre", "glusterfs", "fuse.sshfs", "afs"}
)


@dataclass(frozen=True)
class GpuSample:
    """One GPU at one moment; ``busy_percent`` in [0, 100]."""

    index: int
    name: str
    memory_used_bytes: int
    memory_total_bytes: int
    busy_percent: float


@dataclass(frozen=True)
class SystemSample:
    """The machine at one moment; ``cpu_percent`` in [0, 100] over all cores since the sampler's last look."""

    time: str
    cpu_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    disk_free_bytes: int
    gpus: tuple[GpuSample, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The sample as a line of ``system.jsonl``."""
        return asdict(self)


class GpuSensor(Protocol):
    """Something that can look at the GPUs."""

    def sample(self) -> tuple[GpuSample, ...]:
        """Every GPU now."""

    def close(self) -> None:
        """Let go of the driver."""


class NullGpuSensor:
    """For a machine without GPUs, or without a way to look at them."""

    def sample(self) -> tuple[GpuSample, ...]:
        """Nothing."""
        return ()

    def close(self) -> None:
        """Nothing to let go of."""


class NvmlGpuSensor:
    """NVIDIA GPUs through nvidia-ml-py; ``nvml`` is its module ``pynvml``, already initialised."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]

    def sample(self) -> tuple[GpuSample, ...]:
        """Every GPU now; one that does not answer is left out."""
        found = []
        for index, handle in enumerate(self._handles):
            try:
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                busy = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu
                name = self._nvml.nvmlDeviceGetName(handle)
            except self._nvml.NVMLError:
                continue
            found.append(GpuSample(index, str(name), int(memory.used), int(memory.total), float(busy)))
        return tuple(found)

    def close(self) -> None:
        """Let go of the driver."""
        self._nvml.nvmlShutdown()


def gpu_sensor() -> GpuSensor:
    """The NVIDIA sensor when package and driver are there, else the null sensor."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return NullGpuSensor()
    try:
        nvml.nvmlInit()
        return NvmlGpuSensor(nvml)
    except nvml.NVMLError:
        return NullGpuSensor()


class SystemSampler:
    """Looks at the machine; each sampler measures the processor since its own last look. ``close`` it.

    Many may ask at once: a look is given again until it is ``keep_seconds`` old, so that what one is told does not
    hang on when another asked.
    """

    def __init__(self, folder: Path, gpus: GpuSensor | None = None, *, keep_seconds: float = 0.0) -> None:
        self._folder = folder
        self._gpus = gpus or gpu_sensor()
        self._busy, self._total = _cpu_seconds()
        self._keep_seconds, self._guard = keep_seconds, threading.Lock()
        self._last: tuple[float, SystemSample] | None = None

    def sample(self) -> SystemSample:
        """The machine now, or as it was less than ``keep_seconds`` ago; ``folder`` says which disk is meant."""
        with self._guard:
            now = time.monotonic()
            if self._last is None or now - self._last[0] >= self._keep_seconds:
                self._last = now, self._look()
            return self._last[1]

    def _look(self) -> SystemSample:
        memory = available_memory()
        return SystemSample(
            time=utc_now(),
            cpu_percent=self._cpu_percent(),
            memory_used_bytes=memory.total_bytes - memory.available_bytes,
            memory_total_bytes=memory.total_bytes,
            disk_free_bytes=free_bytes(self._folder),
            gpus=self._gpus.sample(),
        )

    def _cpu_percent(self) -> float:
        busy, total = _cpu_seconds()
        passed, worked = total - self._total, busy - self._busy
        self._busy, self._total = busy, total
        return round(min(100.0, max(0.0, 100.0 * worked / passed)), 1) if passed > 0 else 0.0

    def close(self) -> None:
        """Let go of the GPU driver."""
        self._gpus.close()


def _cpu_seconds() -> tuple[float, float]:
    times = psutil.cpu_times()._asdict()
    guests = times.get("guest", 0.0) + times.get("guest_nice", 0.0)  # counted in user and nice already
    total = sum(times.values()) - guests
    return total - times["idle"] - times.get("iowait", 0.0), total


@dataclass(frozen=True)
class DiskForecast:
    """The room for the next ``CHECKPOINTS_AHEAD`` checkpoints; ``checkpoint_bytes`` is 0 before the first one."""

    path: Path
    free_bytes: int
    checkpoint_bytes: int

    @property
    def needed_bytes(self) -> int:
        """Space that should be free: the next checkpoints, and never less than ``MIN_FREE_BYTES``."""
        return max(MIN_FREE_BYTES, CHECKPOINTS_AHEAD * self.checkpoint_bytes)

    @property
    def is_enough(self) -> bool:
        """True if there is room for them."""
        return self.free_bytes >= self.needed_bytes

    def describe(self) -> str:
        """One sentence with path and bytes."""
        return (
            f"{self.path} has {self.free_bytes:,} bytes free; "
            f"the next {CHECKPOINTS_AHEAD} checkpoints need {self.needed_bytes:,}."
        )


def forecast_disk(run: RunDir) -> DiskForecast:
    """Will the run's disk do? Measured on its newest checkpoint."""
    step = run.newest_checkpoint_step()
    size = folder_bytes(run.checkpoint(step)) if step else 0
    return DiskForecast(run.path, free_bytes(run.path), size)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(base) / name).lstat().st_size
            except OSError:
                continue
    return total


def is_network_path(path: Path) -> bool:
    """Return whether ``path`` is on a network file system, where locks and renames may be weaker."""
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    resolved = path.resolve()
    mount = next((place for place in (resolved, *resolved.parents) if place in mounts), None)
    return mount is not None and mounts[mount].lower() in _NETWORK
