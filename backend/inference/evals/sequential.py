"""A test that may be looked at after every row, and stopped as soon as it has decided.

An ordinary test that is looked at again and again finds a difference sooner or later, whether there is one or not.
This one does so in at most ``ALPHA`` of cases, however often it is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from backend.inference.evals.paired import ALPHA, Verdict


@dataclass(frozen=True)
class Sequential:
    """Rows so far on which the first model did better (``gained``) and worse (``lost``); the others do not count."""

    gained: int = 0
    lost: int = 0

    def after(self, ours: Iterable[float], theirs: Iterable[float]) -> Sequential:
        """Return the state after the scores of more rows."""
        gained, lost = self.gained, self.lost
        for one, other in zip(ours, theirs, strict=True):
            gained += one > other
            lost += one < other
        return Sequential(gained, lost)

    def evidence(self) -> float:
        """Return the evidence for a difference, an e-value: its mean is at most 1 where there is none.

        It is what a bet on the rows would have won that mixes every share of gained rows with the same weight
        (Robbins 1970), where each row that differs is a fair coin.
        """
        rows = self.gained + self.lost
        won = math.lgamma(self.gained + 1) + math.lgamma(self.lost + 1) - math.lgamma(rows + 2)
        return math.exp(min(700.0, won + rows * math.log(2)))

    def verdict(self) -> Verdict:
        """Return what is decided so far, by Ville's inequality (1939)."""
        if self.evidence() < 1 / ALPHA:
            return Verdict.SAME
        return Verdict.BETTER if self.gained > self.lost else Verdict.WORSE
