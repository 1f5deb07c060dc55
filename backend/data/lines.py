"""Read lines one at a time, with no more than a limit of each in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TextIO


class Line(NamedTuple):
    """One line with its ending; ``too_long``: only its beginning was kept."""

    number: int
    text: str
    too_long: bool = False


def bounded_lines(stream: TextIO, limit: int) -> Iterator[Line]:
    """Yield every line of ``stream``, numbered from 1; one over ``limit`` characters is cut and marked."""
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
    r"""Return the line without one ending (``\n``, ``\r\n`` or ``\r``)."""
    for ending in ("\r\n", "\n", "\r"):
        if line.endswith(ending):
            return line[: -len(ending)]
    return line
