"""Write one page of what the tests of each room prove, from the reports of their last runs: ``make report``.

    python benchmarks/suite_report.py PAGE

A figure without a report is a dash: tests and seconds come from `make test`, coverage from `make coverage`, mutants
from `make mutation`. Oracles and planted faults are read from the tests themselves.
"""

from __future__ import annotations

import ast
import html
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.suite_times import Timed, read  # noqa: E402
from tests.mutants.faults import FAULTS  # noqa: E402

REPORTS = ROOT / "build" / "reports"
ORACLES = (
    *("transformers", "peft", "trl", "torch", "onnxruntime", "xllamacpp", "gguf", "tensorboard", "openai"),
    *("tokenizers", "datasets", "bitsandbytes", "yaml", "psutil", "csv", "email", "statistics", "jsonschema"),
)
"""Programs of others that a test can ask for the same result."""
GOALS = {"coverage": 98.0, "mutants": 90.0}
"""Percent below which a figure is shown as weak."""


@dataclass
class Room:
    """What is known of a package and its tests."""

    tests: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    covered: Counter[str] = field(default_factory=Counter)
    mutants: Counter[str] = field(default_factory=Counter)
    oracles: set[str] = field(default_factory=set)
    faults: int = 0


def room_of(parts: Sequence[str]) -> str:
    """The room of a test or a module by the parts of its path: backend/run, app, or tests/faults."""
    first = [part for part in parts if part != "tests"]
    if first[0] == "backend":
        return f"backend/{first[1]}" if len(first) > 2 else "backend"
    return "app" if first[0] == "app" else f"tests/{first[0]}" if len(first) > 1 else "tests"


def gathered(reports: Path) -> dict[str, Room]:
    """Every room by its name, in order."""
    rooms: dict[str, Room] = defaultdict(Room)
    for test in _timed(reports / "test.xml"):
        room = rooms[room_of(_path(test.name))]
        room.tests += 1
        room.seconds += test.cpu
        room.slowest = max(room.slowest, test.wall)
    for name, file in _json(reports / "coverage.json").get("files", {}).items():
        summary = file["summary"]
        rooms[room_of(Path(name).parts)].covered += Counter(
            whole=summary["num_statements"] + summary.get("num_branches", 0),
            run=summary["covered_lines"] + summary.get("covered_branches", 0),
        )
    for name, counts in _json(reports / "mutation.json").items():
        known = {end: counts.get(end, 0) for end in ("killed", "survived", "equivalent")}
        rooms[room_of(Path(name).parts)].mutants += Counter(known)
    for fault in FAULTS:
        rooms[room_of(Path(fault.file).parts)].faults += 1
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        rooms[room_of(path.relative_to(ROOT).parts)].oracles |= set(_asked(path))
    return dict(sorted(rooms.items()))


def _timed(path: Path) -> Sequence[Timed]:
    return read(path).tests if path.exists() else ()


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _path(name: str) -> list[str]:
    """The parts of a test's path: what stands before the name of its file, and that."""
    words = name.partition("[")[0].split(".")
    end = next((place for place, word in enumerate(words) if word.startswith("test_")), len(words) - 1)
    return words[: end + 1]


def _asked(path: Path) -> Iterator[str]:
    """The programs of others that a test file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (name.split(".")[0] for name in names if name.split(".")[0] in ORACLES)


# --- the page -------------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1b1f24; --faint: #667; --line: #dde1e6;
        --good: #1a7f4b; --weak: #b3261e; --bar: #cfe8da; --weakbar: #f6d5d2; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --text: #e6e8ea; --faint: #98a0a8;
        --line: #2c3238; --good: #6fd39b; --weak: #ff8f86; --bar: #1d3b2b; --weakbar: #4a2220; } }
body { background: var(--ground); color: var(--text); font: 15px/1.45 system-ui, sans-serif;
       max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; } caption { text-align: left; color: var(--faint); padding: .5rem 0; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
         font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; font-weight: 600; } thead th { color: var(--faint); font-weight: 500; }
td.none { color: var(--faint); } td.weak { color: var(--weak); font-weight: 600; }
td.share { background: linear-gradient(to right, var(--bar) var(--part), transparent var(--part)); }
td.share.weak { background: linear-gradient(to right, var(--weakbar) var(--part), transparent var(--part)); }
"""
HEAD = (
    "room",
    "tests",
    "processor seconds",
    "slowest, s",
    "coverage",
    "mutants killed",
    "oracles",
    "planted faults",
)


def page(rooms: dict[str, Room]) -> str:
    """The page, complete in itself."""
    head = "".join(f'<th scope="col">{each}</th>' for each in HEAD)
    lines = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>{_line(room)}</tr>\n' for name, room in rooms.items()
    )
    goals = (
        f"Red: below {GOALS['coverage']:g} % of lines and branches, or below {GOALS['mutants']:g} % of mutants. "
        "A dash: no report of it was found."
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>What the tests prove</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body><h1>What the tests prove</h1>\n<table><caption>{goals}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody></table></body></html>\n"
    )


def _line(room: Room) -> str:
    killed, survived = room.mutants["killed"], room.mutants["survived"]
    cells = [
        _cell(f"{room.tests:,}" if room.tests else ""),
        _cell(f"{room.seconds:.0f}" if room.tests else ""),
        _cell(f"{room.slowest:.1f}" if room.tests else ""),
        _share(room.covered["run"], room.covered["whole"], GOALS["coverage"]),
        _share(killed, killed + survived, GOALS["mutants"]),
        _cell(str(len(room.oracles) or ""), title=", ".join(sorted(room.oracles))),
        _cell(str(room.faults or "")),
    ]
    return "".join(cells)


def _cell(text: str, *, title: str = "") -> str:
    kind = "" if text else ' class="none"'
    return f'<td{kind} title="{html.escape(title)}">{text or "–"}</td>'


def _share(part: int, whole: int, goal: float) -> str:
    if not whole:
        return _cell("")
    percent = 100 * part / whole
    weak = " weak" if percent < goal else ""
    return f'<td class="share{weak}" style="--part: {percent:.0f}%" title="{part} of {whole}">{percent:.1f} %</td>'


def main(words: Sequence[str]) -> int:
    """Write the page; return the exit code."""
    (place,) = words
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    Path(place).write_text(page(gathered(REPORTS)), encoding="utf-8")
    print(place)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
