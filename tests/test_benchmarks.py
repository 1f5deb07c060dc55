"""The benchmarks: what they import from the product exists, and the check for GPUs judges what it measures."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.house import ROOT, parsed

BENCHMARKS = sorted(ROOT.glob("benchmarks/*.py"))


def _names(path: Path) -> set[str]:
    """What a module holds at its top, submodules left out."""
    nodes = [node for node in ast.walk(parsed(path)) if not isinstance(node, ast.expr_context)]
    assigned = {node.id for node in nodes if isinstance(node, ast.Name)}
    made = {
        node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
    }
    imported = {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return assigned | made | imported


def _module(name: str) -> Path | None:
    base = ROOT / name.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _missing(benchmark: Path) -> Iterator[str]:
    """The names that a benchmark asks our packages for and that they lack."""
    for node in ast.walk(parsed(benchmark)):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] not in {
            "backend",
            "app",
            "tests",
        }:
            continue
        module = _module(node.module or "")
        for alias in node.names:
            inside = _module(f"{node.module}.{alias.name}")
            if inside is None and (module is None or alias.name not in _names(module)):
                yield f"{benchmark.name}: {node.module}.{alias.name}"


def test_what_the_benchmarks_import_exists() -> None:
    assert [name for benchmark in BENCHMARKS for name in _missing(benchmark)] == []


def test_a_name_that_went_is_seen(tmp_path: Path) -> None:
    old = tmp_path / "old.py"
    old.write_text(
        "from backend.run.config import RunConfig, Gone\nfrom backend.gone import x\n", encoding="utf-8"
    )
    assert list(_missing(old)) == ["old.py: backend.run.config.Gone", "old.py: backend.gone.x"]


def test_the_check_for_gpus_runs_where_there_is_none() -> None:
    command = [sys.executable, "benchmarks/gpu_check.py", "--device", "cpu", "--tiny", "--budgets"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("green") == 7
