"""Checks that say how like the expected answer an answer is: by its signs, words, number, label or meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from backend.inference.evals.assertion import Assertion
from backend.inference.evals.measures import (
    bleu,
    cosine,
    edit_distance,
    last_number,
    rouge_l,
    rouge_n,
    squad_normalised,
    token_f1,
)
from backend.inference.evals.text_checks import Judge, shown, verdict
from backend.inference.evals.verdicts import Answer, Row, Score, UndecidedError, require_short

Embed: TypeAlias = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""Texts -> a vector for each."""
_MEASURES: dict[str, tuple[Callable[[str, str], float], float]] = {
    "rouge-n": (rouge_n, 0.75),
    "rouge-2": (lambda said, wanted: rouge_n(said, wanted, 2), 0.5),
    "rouge-l": (rouge_l, 0.5),
    "bleu": (bleu, 0.5),
    "f-score": (token_f1, 0.5),
}
"""Word -> the measure and the least score that passes; of ``rouge-n`` and ``bleu`` those of promptfoo."""


def measured(asked: Assertion) -> Judge:
    """A measure of the text and the value is at least the threshold."""
    measure, least = _MEASURES[asked.word][0], asked.limit(_MEASURES[asked.word][1])

    def judge(answer: Answer, row: Row) -> Score:
        wanted = asked.wanted_text(row)
        require_short(answer.text, wanted)
        found = measure(answer.text, wanted)
        return verdict(found >= least, f"{asked.word} is {found:.3f}.", score=found)

    return judge


def levenshtein(asked: Assertion) -> Judge:
    """At most ``threshold`` signs, by default 5, are inserted, deleted or replaced; the score is the share kept."""
    most = 5.0 if asked.threshold is None else asked.threshold

    def judge(answer: Answer, row: Row) -> Score:
        wanted = asked.wanted_text(row)
        require_short(answer.text, wanted)
        found = edit_distance(answer.text, wanted)
        share = 1 - found / max(len(answer.text), len(wanted), 1)
        return verdict(found <= most, f"{found:,} signs differ from {shown(wanted)}.", score=share)

    return judge


def normalised_match(asked: Assertion) -> Judge:
    """The texts are equal in lower case, without punctuation and articles, as SQuAD compares answers."""

    def judge(answer: Answer, row: Row) -> Score:
        wanted = asked.wanted_text(row)
        require_short(answer.text, wanted)
        same = squad_normalised(answer.text) == squad_normalised(wanted)
        return verdict(same, f"It is not {shown(wanted)}.")

    return judge


def numeric(asked: Assertion) -> Judge:
    """The last number in the answer is that of the value; the threshold is the largest difference that passes."""
    most = 0.0 if asked.threshold is None else asked.threshold
    if most < 0:
        raise asked.refused(
            "threshold", f"It is {most:g}.", "Use the largest difference that passes, 0 or more."
        )

    def judge(answer: Answer, row: Row) -> Score:
        require_short(answer.text, asked.wanted_text(row))
        wanted, found = last_number(asked.wanted_text(row)), last_number(answer.text)
        if wanted is None:
            raise UndecidedError("The expected answer has no number.")
        if found is None:
            return verdict(False, "It has no number.")
        return verdict(abs(found - wanted) <= most, f"Its number is {found:g}, not {wanted:g}.")

    return judge


def similar(asked: Assertion, embed: Embed | None) -> Judge:
    """The vectors of both texts have a cosine of at least the threshold, by default 0.75."""
    least = asked.limit(0.75)

    def judge(answer: Answer, row: Row) -> Score:
        if embed is None:
            raise UndecidedError("There is no model that turns texts into vectors.")
        said, wanted = embed([answer.text, asked.wanted_text(row)])
        found = cosine(said, wanted)
        return verdict(found >= least, f"The cosine is {found:.3f}.", score=max(0.0, found))

    return judge
