"""The few fakes there are, each satisfying the Protocol it stands for: a failing and a recording disk, GPUs."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

from backend.manager.system_manager import GpuSample
from backend.utils.file_utils import DiskFileSystem


@dataclass(frozen=True)
class Operation:
    """One durable operation; ``data`` is what a write wrote, ``target`` where a rename went."""

    name: str
    path: Path
    data: bytes = b""
    target: Path | None = None


@dataclass
class RecordingFileSystem:
    """The real disk, with a list of everything asked of it."""

    operations: list[Operation] = field(default_factory=list)
    inner: DiskFileSystem = field(default_factory=DiskFileSystem)

    def write(self, path: Path, data: bytes) -> None:
        self.inner.write(path, data)
        self.operations.append(Operation("write", path, data=data))

    def fsync(self, path: Path) -> None:
        self.inner.fsync(path)
        self.operations.append(Operation("fsync", path))

    def rename(self, source: Path, target: Path) -> None:
        self.inner.rename(source, target)
        self.operations.append(Operation("rename", source, target=target))

    def unlink(self, path: Path) -> None:
        self.inner.unlink(path)
        self.operations.append(Operation("unlink", path))

    def mkdir(self, path: Path) -> None:
        self.inner.mkdir(path)
        self.operations.append(Operation("mkdir", path))


@dataclass
class FailingFileSystem:
    """A disk that refuses its ``fail_at``-th operation (counted from 1) with ``code``, as often as it is asked."""

    fail_at: int
    code: int = errno.ENOSPC
    inner: DiskFileSystem = field(default_factory=DiskFileSystem)
    done: int = 0

    def _count(self, path: Path) -> None:
        self.done += 1
        if self.done >= self.fail_at:
            raise OSError(self.code, os.strerror(self.code), str(path))

    def write(self, path: Path, data: bytes) -> None:
        self._count(path)
        self.inner.write(path, data)

    def fsync(self, path: Path) -> None:
        self._count(path)
        self.inner.fsync(path)

    def rename(self, source: Path, target: Path) -> None:
        self._count(source)
        self.inner.rename(source, target)

    def unlink(self, path: Path) -> None:
        self._count(path)
        self.inner.unlink(path)

    def mkdir(self, path: Path) -> None:
        self._count(path)
        self.inner.mkdir(path)


@dataclass
class FakeGpuSensor:
    """GPUs that say what the test wants."""

    samples: tuple[GpuSample, ...] = (GpuSample(0, "Test GPU", 2**30, 8 * 2**30, 50.0),)
    closed: bool = False

    def sample(self) -> tuple[GpuSample, ...]:
        return self.samples

    def close(self) -> None:
        self.closed = True
