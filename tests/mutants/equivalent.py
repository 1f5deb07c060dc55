"""Mutants that change nothing anybody could notice, each with the reason; ``make mutation`` does not count them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Equivalent:
    """In ``file`` the line ``was``, without its margins, may as well be ``becomes``, for the reason ``why``."""

    file: str
    was: str
    becomes: str
    why: str


EQUIVALENT: tuple[Equivalent, ...] = ()
