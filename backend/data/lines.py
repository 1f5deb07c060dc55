"""Lines of a text, one at a time and never more than a limit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TextIO


class Line(NamedTuple):
    """One line with its ending as given; ``too_long`` when only its beginning was kept."""

    number: int
    text: str
    too_long: bool = False


def bounded_lines(stream: TextIO, limit: int) -> Iterator[Line]:
    """Every line of ``stream`` from number 1, each cut off at ``limit`` characters and then marked."""
    number = 0
    while text := stream.readline(limit):
        number += 1
        if len(text) < limit or text.endswith(("\n", "\r")):
            yield Line(number, text)
            continue
        rest = stream.readline(limit)
        if not rest:
            yield Line(number, text)
            continue
        while rest and len(rest) == limit and not rest.endswith(("\n", "\r")):
            rest = stream.readline(limit)
        yield Line(number, text, too_long=True)


def without_ending(line: str) -> str:
    r"""The line without its one ending (``\n``, ``\r\n`` or ``\r``)."""
    for ending in ("\r\n", "\n", "\r"):
        if line.endswith(ending):
            return line[: -len(ending)]
    return line
