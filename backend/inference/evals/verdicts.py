"""An answer, what a check says of it, and the interface of a check.

The same check is a score of ``tunesmith evaluate``, a light in a grid, a reason to stop and a reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

MAX_CHARACTERS = 50_000
"""Longest text that is measured, searched or held against a schema, each of which takes up to a second."""
OVERALL = "all checks"
"""The metric of a whole row: every check passes, or their weighted mean reaches the threshold of the row."""
Row: TypeAlias = Mapping[str, Any]
"""What a check knows of a row: ``prompt``, ``expected``, and its other columns or variables."""


@dataclass(frozen=True)
class Answer:
    """One answer of a model.

    ``finish_reason`` is ``stop`` or ``length``; ``tokens`` counts the answer's tokens and ``logprob`` is their summed
    log-probability in nats. Each is None where it is not known. ``tool_calls`` are those in the form of OpenAI.
    """

    text: str
    finish_reason: str | None = None
    tokens: int | None = None
    logprob: float | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Score:
    """What a check says: whether the answer passes, how good it is from 0 to 1, and why, in a sentence.

    ``decided`` is False where the check could not be made, as for a row without an expected answer; the answer has
    then not passed, with a score of 0, whether or not the check is negated.
    """

    passed: bool
    score: float
    reason: str
    decided: bool = True


class UndecidedError(Exception):
    """A check cannot be made on this answer; its text is the reason. It never leaves a ``Verifier``."""


def require_short(*texts: str) -> None:
    """Raise UndecidedError where a text is longer than ``MAX_CHARACTERS``."""
    if max(map(len, texts)) > MAX_CHARACTERS:
        raise UndecidedError(f"It is longer than {MAX_CHARACTERS:,} characters.")


class Verifier(Protocol):
    """A check: a pure function of an answer and its row."""

    @property
    def name(self) -> str:
        """The metric that it counts for, by default its word."""

    @property
    def weight(self) -> float:
        """Its share in a weighted mean; at 0 it is only shown."""

    def __call__(self, answer: Answer, row: Row) -> Score:
        """Return what it says of an answer to ``row``. Raises nothing for any text."""

    def close(self) -> None:
        """End what it has started, such as the process of a person's own function."""
