"""The fault matrix: each row F01 to F42 and S01 to S18 with the tests that carry its name, or why it is struck.

    make rel-matrix

A test carries a row's name as ``f07`` or ``s07`` in its function, class or file name. Exits 1 when a row has neither.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.faults.struck import STRUCK  # noqa: E402

ROWS = [f"F{number:02}" for number in range(1, 43)] + [f"S{number:02}" for number in range(1, 19)]
_NAME = re.compile(r"(?:^|_)([fs]\d\d)(?=_|$)")


def tests_by_row(folder: Path) -> dict[str, list[str]]:
    """The names of the tests under ``folder`` by the rows that they carry."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for row in set(_NAME.findall(node.name)) | set(_NAME.findall(path.stem)):
                    found[row.upper()].append(f"{path.relative_to(ROOT)}::{node.name}")
    return found


def main() -> int:
    found = tests_by_row(ROOT / "tests")
    missing = [row for row in ROWS if row not in found and row not in STRUCK]
    for row in ROWS:
        tests = found.get(row, [])
        told = f"{len(tests):3} tests, first {tests[0]}" if tests else f"struck: {STRUCK.get(row, 'MISSING')}"
        print(f"{row}  {told}")
    print(
        f"rows: {len(ROWS)}, with tests: {len(set(ROWS) & found.keys())}, struck: {len(STRUCK)}, missing: {missing}"
    )
    return 1 if missing or STRUCK.keys() & found.keys() else 0


if __name__ == "__main__":
    sys.exit(main())
