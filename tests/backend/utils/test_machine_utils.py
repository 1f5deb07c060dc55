"""Cores and memory with the limits of containers: backend/utils/machine_utils.py."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from backend.utils.machine_utils import available_cores, available_memory, give_back_memory

GB = 10**9
Process = Callable[..., Path]


@pytest.fixture
def process(tmp_path: Path) -> Process:
    """The /proc folder of a process in the given groups, and the files of those groups."""

    def make(memberships: str, mounts: str, **files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        proc = tmp_path / "proc"
        proc.mkdir()
        (proc / "cgroup").write_text(memberships)
        (proc / "mountinfo").write_text(mounts.replace("HERE", str(tmp_path).replace(" ", "\\040")))
        return proc

    return make


V2 = "31 23 0:41 / HERE/cg rw - cgroup2 cgroup2 rw\n"
V1 = (
    "31 23 0:30 / HERE/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 23 0:35 / HERE/mem rw - cgroup cgroup rw,memory\n"
)


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


class TestMemory:
    def test_v2_the_group_s_own_limit(self, process: Process) -> None:
        proc = process(
            "0::/job\n",
            V2,
            **{
                "cg/job/memory.max": str(2 * GB),
                "cg/job/memory.current": str(GB),
                "cg/job/memory.stat": f"anon 5\ninactive_file {GB // 2}",
            },
        )
        found = available_memory(proc)
        assert (found.total_bytes, found.available_bytes) == (2 * GB, 3 * GB // 2)

    def test_v1_the_group_s_own_limit(self, process: Process) -> None:
        proc = process(
            "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n",
            V1,
            **{
                "mem/docker/x/memory.limit_in_bytes": str(2 * GB),
                "mem/docker/x/memory.usage_in_bytes": str(GB),
                "mem/docker/x/memory.stat": f"inactive_file 1\ntotal_inactive_file {GB // 4}",
            },
        )
        found = available_memory(proc)
        assert (found.total_bytes, found.available_bytes) == (2 * GB, 5 * GB // 4)

    @pytest.mark.parametrize("narrow", ["cg/a", "cg/a/b", "cg"])
    def test_the_narrowest_of_nested_groups_counts(self, process: Process, narrow: str) -> None:
        limits = {f"{group}/memory.max": "max" for group in ("cg", "cg/a", "cg/a/b")}
        proc = process("0::/a/b\n", V2, **(limits | {f"{narrow}/memory.max": str(GB)}))
        assert available_memory(proc).total_bytes == GB

    def test_a_container_that_sees_its_group_as_the_root(self, process: Process) -> None:
        """Its path is that of the host, and nothing lies under it here."""
        proc = process("4:memory:/docker/x\n", V1, **{"mem/memory.limit_in_bytes": str(GB)})
        assert available_memory(proc).total_bytes == GB

    def test_a_group_that_is_mounted_itself(self, process: Process) -> None:
        mount = "32 23 0:35 /docker/x HERE/mem rw - cgroup cgroup rw,memory\n"
        proc = process("4:memory:/docker/x/y\n", mount, **{"mem/y/memory.limit_in_bytes": str(GB)})
        assert available_memory(proc).total_bytes == GB

    def test_a_throttle_is_a_limit(self, process: Process) -> None:
        proc = process("0::/\n", V2, **{"cg/memory.max": "max", "cg/memory.high": str(GB)})
        assert available_memory(proc).total_bytes == GB

    def test_both_versions_side_by_side(self, process: Process) -> None:
        memberships = "4:memory:/a\n0::/b\n"
        limits = {"mem/a/memory.limit_in_bytes": str(3 * GB), "cg/b/memory.max": str(2 * GB)}
        assert available_memory(process(memberships, V1 + V2, **limits)).total_bytes == 2 * GB

    @pytest.mark.parametrize("limit", ["max", "9223372036854771712", "", "many", "-1"])
    def test_no_limit_is_the_machine(self, process: Process, limit: str) -> None:
        proc = process("4:memory:/a\n", V1, **{"mem/a/memory.limit_in_bytes": limit})
        assert available_memory(proc).total_bytes == psutil.virtual_memory().total

    def test_a_group_over_its_limit_has_none_left(self, process: Process) -> None:
        files = {"cg/memory.max": str(GB), "cg/memory.current": str(2 * GB)}
        assert available_memory(process("0::/\n", V2, **files)).available_bytes == 0


class TestCores:
    @pytest.mark.parametrize(
        ("quota", "cores"),
        [
            ("200000 100000", 2),
            ("150000 100000", 1),
            ("50000 100000", 1),
            ("max 100000", 8),
            ("x", 8),
            ("", 8),
        ],
    )
    def test_v2_quotas(self, process: Process, quota: str, cores: int) -> None:
        assert available_cores(process("0::/job\n", V2, **{"cg/job/cpu.max": quota})) == cores

    @pytest.mark.parametrize(("quota", "cores"), [("300000", 3), ("-1", 8), ("1000", 1)])
    def test_v1_quotas(self, process: Process, quota: str, cores: int) -> None:
        files = {"cpu/job/cpu.cfs_quota_us": quota, "cpu/job/cpu.cfs_period_us": "100000"}
        assert available_cores(process("3:cpu,cpuacct:/job\n", V1, **files)) == cores

    def test_nested_quotas(self, process: Process) -> None:
        files = {"cg/a/cpu.max": "200000 100000", "cg/a/b/cpu.max": "400000 100000"}
        assert available_cores(process("0::/a/b\n", V2, **files)) == 2

    def test_without_an_affinity_every_core_counts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(os, "sched_getaffinity")
        monkeypatch.setattr(os, "cpu_count", lambda: 5)
        assert available_cores(tmp_path / "missing") == 5


def test_freed_memory_is_given_back_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=kept.append))
    give_back_memory()
    assert kept == [0]


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_where_it_cannot_nothing_happens(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    asked: list[object] = []

    def refuse(name: object) -> object:
        asked.append(name)
        raise error

    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    give_back_memory()
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    give_back_memory()
    assert asked == [None]


@pytest.mark.parametrize("text", ["", "nonsense\n", "0:/x\n", "::::\n"])
def test_records_that_cannot_be_read_limit_nothing(process: Process, text: str) -> None:
    proc = process(text, "odd line without a dash\n" + V2)
    assert available_cores(proc) == 8
    assert available_memory(proc).total_bytes == psutil.virtual_memory().total
