"""Mutants of modules, made by mutmut: which of them no test of the room notices.

    python benchmarks/mutation.py ROOM [--changed]

ROOM is a module or a package, such as backend/run/locks. It is mutated in a copy of the checkout and tried against
the test files of its modules. With ``--changed`` only functions that differ from the branch main are mutated.
Survivors are printed as diffs; those of tests/mutants/equivalent.py, which change nothing, do not count. Exits 1 if
there are others.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.mutants import COPIED  # noqa: E402
from tests.mutants.equivalent import EQUIVALENT  # noqa: E402

RESULTS = ROOT / "build" / "reports" / "mutation.json"
PYTEST = ("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:unraisableexception")
"""The last because mutmut leaves files open that our filters would take for a test's."""


@dataclass(frozen=True)
class Mutant:
    """A mutant by mutmut's name for it, the module it is in, and how it ended."""

    name: str
    module: str
    end: str


def modules(room: str) -> list[Path]:
    """The modules of a room, relative to the checkout. Exits when there are none."""
    place = ROOT / room
    found = [place.with_suffix(".py")] if place.with_suffix(".py").is_file() else sorted(place.rglob("*.py"))
    named = [path.relative_to(ROOT) for path in found if path.name != "__init__.py"]
    return named or sys.exit(f"{room}: no module is there. Name one such as backend/run/locks.")


def tests_of(module: Path) -> Path:
    """The test file of a module."""
    return Path("tests") / module.with_name(f"test_{module.name}")


def changed_lines(module: Path) -> set[int]:
    """The lines of a module that differ from the branch main."""
    command = ["git", "diff", "-U0", "main", "--", str(module)]
    diff = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    hunks = re.findall(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@", diff, re.MULTILINE)
    return {line for begin, count in hunks for line in range(int(begin), int(begin) + int(count or 1))}


def functions_at(source: str, lines: set[int]) -> set[str]:
    """The functions, by name, that one of these lines is in."""
    return {
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and lines & set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    }


def settings(chosen: Sequence[Path]) -> str:
    """What mutmut is told, as a section of pyproject.toml."""
    told = {
        "source_paths": ["backend", "app"],
        "only_mutate": [str(module) for module in chosen],
        "also_copy": [name for name in COPIED if name not in {"backend", "app", "tests"}],
        "pytest_add_cli_args": list(PYTEST),
        "pytest_add_cli_args_test_selection": sorted({str(tests_of(module)) for module in chosen}),
    }
    lines = (f"{name} = {json.dumps(value)}" for name, value in told.items())
    return "\n[tool.mutmut]\nuse_git_change_detection = false\n" + "\n".join(lines) + "\n"


def mutmut(copy: Path, *words: str) -> str:
    """What mutmut prints. Exits when it fails."""
    command = [sys.executable, "-m", "mutmut", *words]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"mutmut {words[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    return done.stdout


def tried(copy: Path, chosen: Sequence[Path], names: Sequence[str]) -> Iterator[Mutant]:
    """Every mutant of these modules, or those that ``names`` fit, once it was tried."""
    project = copy / "pyproject.toml"
    whole = project.read_text(encoding="utf-8")
    project.write_text(whole + settings(chosen), encoding="utf-8")
    mutmut(copy, "run", "--max-children", "1", *names)
    for line in mutmut(copy, "results", "--all", "true").splitlines():
        name, _, end = line.strip().rpartition(": ")
        module = name.rpartition(".")[0].replace(".", "/") + ".py"
        if end != "not checked":
            yield Mutant(name, module, end)


def lines_of(diff: str) -> tuple[str, str]:
    """What a mutant takes away and what it puts there, without margins."""
    rest = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    gone, come = ("\n".join(line[1:].strip() for line in rest if line[:1] == sign) for sign in "-+")
    return gone, come


def keep(counts: dict[str, Counter[str]]) -> None:
    """Write the figures of each module down, for ``make report``."""
    kept: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    kept |= {module: {"date": str(date.today()), **found} for module, found in counts.items()}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def judged(copy: Path, mutants: Iterator[Mutant]) -> dict[str, Counter[str]]:
    """How many mutants of each module were killed, survived or change nothing; survivors are printed."""
    counts: dict[str, Counter[str]] = {}
    known = {(each.file, each.was, each.becomes) for each in EQUIVALENT}
    for mutant in mutants:
        found = counts.setdefault(mutant.module, Counter())
        if mutant.end not in {"survived", "no tests"}:
            found["killed"] += 1
            continue
        diff = mutmut(copy, "show", mutant.name)
        equivalent = (mutant.module, *lines_of(diff)) in known
        found["equivalent" if equivalent else "survived"] += 1
        if not equivalent:
            print(diff, flush=True)
    return counts


def main(words: Sequence[str] | None = None) -> int:
    """Try every module of a room; return the exit code."""
    parser = argparse.ArgumentParser(description="Mutants of a room, and whether its tests notice them")
    parser.add_argument("room", nargs="+")
    parser.add_argument("--changed", action="store_true", help="only functions that differ from main")
    asked = parser.parse_args(words)
    chosen = [
        module for room in asked.room for module in modules(room) if (ROOT / tests_of(module)).is_file()
    ]
    names: list[str] = []
    if asked.changed:
        lines = {module: changed_lines(module) for module in chosen}
        chosen = [module for module in chosen if lines[module]]
        names = [
            f"{'.'.join(module.with_suffix('').parts)}.*{name}__mutmut_*"
            for module in chosen
            for name in sorted(functions_at((ROOT / module).read_text(encoding="utf-8"), lines[module]))
        ]
        if not names:
            print("No function differs from main.")
            return 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in filter(lambda name: (ROOT / name).exists(), COPIED):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, copy / name)
        counts = judged(copy, tried(copy, chosen, names))
    if not asked.changed:
        keep(counts)
    for module, found in sorted(counts.items()):
        print(f"{module}: " + ", ".join(f"{count} {end}" for end, count in sorted(found.items())))
    whole = sum(counts.values(), Counter[str]())
    tested = whole["killed"] + whole["survived"]
    print(f"{whole['killed']} of {tested} mutants killed: {whole['killed'] / max(1, tested):.0%}")
    return 1 if whole["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
