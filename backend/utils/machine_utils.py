"""The cores and memory that this process may use, limits of containers included; memory that it gives back.

Limits are read from the process's control group and every group above it, in cgroup versions 1 and 2 (kernel
documentation: admin-guide/cgroup-v1/memory, scheduler/sched-bwc, admin-guide/cgroup-v2).
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")


@dataclass(frozen=True)
class Memory:
    """Bytes of main memory: all that this process may use, and what is free of it now."""

    total_bytes: int
    available_bytes: int


def available_cores(proc: Path = PROC) -> int:
    """Return how many cores this process may use by its affinity and its control groups' quotas, at least 1.

    ``proc`` is the process's folder in /proc.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _groups(proc, "cpu") if (quota := _cores_of(folder))]
    return max(1, min([cores, *map(int, quotas)]))


def give_back_memory() -> None:
    """Return freed memory to the system where the C library would keep it for later (glibc); elsewhere do nothing."""
    try:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # there is no library of the whole process on Windows
        return
    if trim is not None:
        trim(0)


def available_memory(proc: Path = PROC) -> Memory:
    """Return the machine's memory, or the smallest limit of a control group where that is less."""
    import psutil  # noqa: PLC0415  only needed where memory is asked for

    machine = psutil.virtual_memory()
    total, available = int(machine.total), int(machine.available)
    for folder in _groups(proc, "memory"):
        limit = _memory_limit(folder)
        if limit is not None:
            total, available = min(total, limit), min(available, max(0, limit - _memory_used(folder)))
    return Memory(total, available)


def _groups(proc: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups that may limit ``controller``, from the process's own upwards."""
    try:
        memberships = (proc / "cgroup").read_text("utf-8").splitlines()
        mounts = (proc / "mountinfo").read_text("utf-8").splitlines()
    except OSError:
        return
    paths = {
        name: path
        for _, names, path in (line.split(":", 2) for line in memberships if line.count(":") >= 2)
        for name in names.split(",")
    }
    for line in mounts:
        before, _, after = line.partition(" - ")
        kind, _, options = [*after.split(), "", "", ""][:3]
        name = "" if kind == "cgroup2" else controller
        is_meant = kind == "cgroup2" or (kind == "cgroup" and controller in options.split(","))
        if is_meant and name in paths:
            root, place = before.split()[3:5]
            yield from _upwards(Path(_unescaped(place)), _unescaped(root), paths[name])


def _upwards(place: Path, root: str, path: str) -> Iterator[Path]:
    """Yield the folders from the group ``path`` up to ``place``, the mount point of the group ``root``.

    Inside a container ``path`` may lie outside the mounted part; then only ``place`` is yielded.
    """
    inside = PurePosixPath(path)
    if inside.is_relative_to(root):
        inside = inside.relative_to(root)
    parts = [part for part in inside.parts if part != "/"]
    if ".." not in parts:
        for length in range(len(parts), 0, -1):
            yield place.joinpath(*parts[:length])
    yield place


def _unescaped(text: str) -> str:
    """Return a path from proc(5) mountinfo with its octal escapes (spaces and the like) decoded."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _cores_of(group: Path) -> float | None:
    """Return a control group's quota in cores, None if it has none."""
    words = _read(group / "cpu.max").split()
    if len(words) != 2:
        words = [_read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip()]
    quota, period = (int(word) if word.isdecimal() else 0 for word in words)
    return max(1.0, quota / period) if quota > 0 and period > 0 else None


def _memory_limit(group: Path) -> int | None:
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    limits = [int(text) for name in names if (text := _read(group / name).strip()).isdecimal()]
    return min(limits, default=None)


def _memory_used(group: Path) -> int:
    """Return the bytes a control group uses, less the file cache that the kernel can drop at once."""
    used = _read(group / "memory.current").strip() or _read(group / "memory.usage_in_bytes").strip()
    stat = dict(line.split()[:2] for line in _read(group / "memory.stat").splitlines() if " " in line)
    cache = stat.get("total_inactive_file", stat.get("inactive_file", "0"))
    return max(0, int(used or 0) - int(cache))


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, ValueError):
        return ""
