"""A planted fault: one replaced piece of code, with the tests that must fail because of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """``was``, which stands exactly once in ``file``, becomes ``becomes``; one of ``tests`` must then fail."""

    name: str
    file: str
    was: str
    becomes: str
    tests: tuple[str, ...]
