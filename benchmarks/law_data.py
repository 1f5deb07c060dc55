"""The byte-exact law over many more generated tables than the test suite has time for, container by container.

    make law-data TABLES=10000 CONTAINERS="rows.csv rows.zip"

Every cell must come out as the text that went in. Prints tables, seconds and the verdict of each container; exits 1
when one of them breaks the law, with the smallest table that does.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hypothesis import HealthCheck, Phase, given, settings

from tests.backend.data.containers import CONTAINERS
from tests.properties.test_data_exact import CHARACTERS, SHEET_CHARACTERS, check, tables


def try_tables(name: str, count: int) -> int:
    """Hold ``count`` generated tables against the law in a container; how many were tried. Raises AssertionError."""
    workbook, seen = name == "rows.xlsx", 0

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(rows=tables(SHEET_CHARACTERS if workbook else CHARACTERS))
    def law(rows: list[dict[str, Any]]) -> None:
        nonlocal seen
        seen += 1
        check(name, [{key: value or "x" for key, value in row.items()} for row in rows] if workbook else rows)

    law()
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=10_000, help="tables a container")
    parser.add_argument("containers", nargs="*", default=list(CONTAINERS), help=", ".join(CONTAINERS))
    options = parser.parse_args()
    if unknown := set(options.containers) - set(CONTAINERS):
        parser.error(f"no container is called {', '.join(unknown)}; there are: {', '.join(CONTAINERS)}")
    broken = 0
    for name in options.containers:
        began = time.perf_counter()
        try:
            verdict = f"{try_tables(name, options.n):,} tables, every cell as given"
        except AssertionError as error:
            broken, verdict = broken + 1, f"BROKEN: {error}"
        print(f"{name:>18}: {verdict}, {time.perf_counter() - began:.0f} s", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
