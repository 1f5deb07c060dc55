"""Every lock of the house, taken away: a fault for each, made from the code itself, so that none can be forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.house import APP, BACKEND, ROOT
from tests.locks import locks_taken
from tests.mutants.fault import Fault

NO_LOCK = '__import__("contextlib").nullcontext(0)'


def lock_faults() -> Iterator[Fault]:
    """A fault for each lock that a module takes; the tests of that module must notice it."""
    for path in (*BACKEND, *APP):
        source = path.read_text(encoding="utf-8")
        for line, expression in locks_taken(path):
            yield _without(path.relative_to(ROOT), source, line, expression)


def _without(file: Path, source: str, line: int, expression: str) -> Fault:
    lines = source.splitlines(keepends=True)
    first = line - 1
    while source.count("".join(lines[first:line])) != 1:  # the same lock is taken elsewhere: tell them apart
        first -= 1
    was = "".join(lines[first:line])
    before, found, after = was.rpartition(expression)
    assert found, f"{file}:{line}: {expression}"
    test = Path("tests") / file.with_name(f"test_{file.name}")
    name = f"the lock of {file}:{line} is not taken"
    return Fault(name, str(file), was, f"{before}{NO_LOCK}{after}", (str(test),))
