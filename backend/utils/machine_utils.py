"""What this process may use of the machine: its cores and its memory, the limits of containers included.

The limits are those of the process's own control group and of every group above it, in version 1 and 2 of cgroups
(kernel documentation, admin-guide/cgroup-v1/memory, scheduler/sched-bwc and admin-guide/cgroup-v2).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")


@dataclass(frozen=True)
class Memory:
    """Bytes of main memory: all that this process might ever have, and what it could have now."""

    total_bytes: int
    available_bytes: int


def available_cores(proc: Path = PROC) -> int:
    """Return how many cores this process may use, at least 1: its affinity and the quotas of its groups.

    ``proc`` is the process's folder in /proc.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _groups(proc, "cpu") if (quota := _cores_of(folder))]
    return max(1, min([cores, *map(int, quotas)]))


def available_memory(proc: Path = PROC) -> Memory:
    """Return the machine's memory, or that of the narrowest group where a container has less."""
    import psutil  # noqa: PLC0415  only needed where memory is asked for

    machine = psutil.virtual_memory()
    total, available = int(machine.total), int(machine.available)
    for folder in _groups(proc, "memory"):
        limit = _memory_limit(folder)
        if limit is not None:
            total, available = min(total, limit), min(available, max(0, limit - _memory_used(folder)))
    return Memory(total, available)


def _groups(proc: Path, controller: str) -> Iterator[Path]:
    """The folders of the process's groups that may limit ``controller``, each from its own up to the topmost seen."""
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
    """The folders from the group ``path`` up to ``place``, where the hierarchy's group ``root`` is mounted.

    A group outside what is mounted, as a container may see it, is the mounted one.
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
    """A path as proc(5) mountinfo writes it: blanks and the like stand there as octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _cores_of(group: Path) -> float | None:
    """How many cores a group's quota amounts to; None where it has none."""
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
    """Bytes that a group holds and that the kernel cannot take back at once."""
    used = _read(group / "memory.current").strip() or _read(group / "memory.usage_in_bytes").strip()
    stat = dict(line.split()[:2] for line in _read(group / "memory.stat").splitlines() if " " in line)
    cache = stat.get("total_inactive_file", stat.get("inactive_file", "0"))
    return max(0, int(used or 0) - int(cache))


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, ValueError):
        return ""
