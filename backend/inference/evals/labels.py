"""Labels: the check that an answer is the right one, and how often each was taken for another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from backend.inference.evals.assertion import Assertion
from backend.inference.evals.text_checks import Judge, shown, verdict
from backend.inference.evals.verdicts import Answer, Row, Score, UndecidedError

OTHER = ""
"""What an answer counts as that is none of the labels."""


def label_of(text: str) -> str:
    """Return a text as labels are compared: its thinking block, white space, case and a full stop do not count."""
    return text.rpartition("</think>")[2].strip().removesuffix(".").strip().casefold()


def label(asked: Assertion) -> Judge:
    """The answer is the label that the row expects; the value lists all labels there are, if it is given."""
    given = asked.value
    if given is not None and (
        not isinstance(given, list) or not all(isinstance(each, str) for each in given)
    ):
        raise asked.refused("value", f"It is {given!r}.", "List the labels.")
    known = {label_of(each) for each in given or ()}

    def judge(answer: Answer, row: Row) -> Score:
        if row.get("expected") in ("", None):
            raise UndecidedError("The row has no expected answer.")
        wanted, found = str(row["expected"]), label_of(answer.text)
        if known and found not in known:
            return verdict(False, f"{shown(answer.text)} is none of the labels.")
        return verdict(found == label_of(wanted), f"It is {shown(answer.text)}, not {shown(wanted)}.")

    return judge


@dataclass(frozen=True)
class Confusion:
    """How often each expected label got which answer: (expected, answered) -> rows; answered may be ``OTHER``."""

    labels: tuple[str, ...]
    counts: Counter[tuple[str, str]]

    @classmethod
    def of(cls, answers: Sequence[str], expected: Sequence[str]) -> Confusion:
        """Count answers to rows; the labels are those that are expected of some row."""
        names: dict[str, str] = {}
        for text in expected:
            names.setdefault(label_of(text), text.strip())
        said = (names.get(label_of(text), OTHER) for text in answers)
        wanted = (names[label_of(text)] for text in expected)
        return cls(tuple(sorted(names.values())), Counter(zip(wanted, said, strict=True)))

    def accuracy(self) -> float:
        """Return the share of right answers, 0 to 1."""
        return sum(self.counts[name, name] for name in self.labels) / self.counts.total()

    def f1(self, name: str) -> float:
        """Return the F1 of one label: the harmonic mean of its precision and recall, 0 to 1."""
        wanted = sum(count for (expected, _), count in self.counts.items() if expected == name)
        said = sum(count for (_, answered), count in self.counts.items() if answered == name)
        return 2 * self.counts[name, name] / (wanted + said)

    def macro_f1(self) -> float:
        """Return the mean F1 of all labels, each with the same weight."""
        return sum(map(self.f1, self.labels)) / len(self.labels)

    def worst(self, most: int = 10) -> list[tuple[str, str, int]]:
        """Return the commonest mistakes as (expected, answered, rows)."""
        wrong = [(*pair, count) for pair, count in self.counts.items() if pair[0] != pair[1]]
        return sorted(wrong, key=lambda each: (-each[2], *each[:2]))[:most]


def commonest_share(expected: Sequence[str]) -> float:
    """Return the share of rows that the commonest expected answer gets right: what always saying it would score."""
    return max(Counter(map(label_of, expected)).values()) / len(expected)
