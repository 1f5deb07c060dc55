"""Checks of an answer's text: what it equals, contains, starts with and matches, how long it is and how it ended."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from backend.inference.evals.assertion import Assertion
from backend.inference.evals.json_text import NotJsonError, canonical, read_json_text
from backend.inference.evals.patterns import found_in, pattern_fault
from backend.inference.evals.verdicts import Answer, Row, Score, UndecidedError, require_short
from backend.run.reports import same_answer
from backend.utils.text_utils import shorten

Judge: TypeAlias = Callable[[Answer, Row], Score]
_ITEM = re.compile(r'"([^"]*)"|([^,\s"][^,]*)')


def verdict(passed: bool, otherwise: str, *, score: float | None = None) -> Score:
    """Return a score with the reason why it did not pass; 1 or 0 without a ``score`` of its own."""
    return Score(passed, float(passed) if score is None else score, "" if passed else otherwise)


def equals(asked: Assertion) -> Judge:
    """The whole text is the value; the same JSON, where the value is a list or a mapping."""

    def judge(answer: Answer, row: Row) -> Score:
        wanted = asked.wanted(row)
        if isinstance(wanted, dict | list):
            require_short(answer.text)
            return verdict(_is_json(answer.text, wanted), "It is other JSON.")
        return verdict(answer.text == str(wanted), f"It is not {shown(wanted)}.")

    return judge


def _is_json(text: str, wanted: Any) -> bool:
    try:
        return canonical(read_json_text(text)) == canonical(wanted)
    except NotJsonError:
        return False


def exact_match(asked: Assertion) -> Judge:
    """The text is the value, apart from white space around it and a thinking block before it."""
    return lambda answer, row: verdict(
        same_answer(answer.text, asked.wanted_text(row)), f"It is not {shown(asked.wanted(row))}."
    )


def contains(asked: Assertion) -> Judge:
    """The value stands somewhere in the text; in any case of letters for ``icontains``."""
    fold = _folding(asked)

    def judge(answer: Answer, row: Row) -> Score:
        wanted = asked.wanted_text(row)
        return verdict(fold(wanted) in fold(answer.text), f"It does not contain {shown(wanted)}.")

    return judge


def contains_all(asked: Assertion) -> Judge:
    """Every one of the values stands in the text; the score is the share that does."""
    fold = _folding(asked)

    def judge(answer: Answer, row: Row) -> Score:
        wanted, text = _texts(asked, row), fold(answer.text)
        missing = [each for each in wanted if fold(each) not in text]
        share = 1 - len(missing) / len(wanted)
        return verdict(not missing, f"It does not contain {', '.join(map(shown, missing))}.", score=share)

    return judge


def contains_any(asked: Assertion) -> Judge:
    """At least one of the values stands in the text."""
    fold = _folding(asked)

    def judge(answer: Answer, row: Row) -> Score:
        wanted, text = _texts(asked, row), fold(answer.text)
        found = any(fold(each) in text for each in wanted)
        return verdict(found, f"It contains none of {', '.join(map(shown, wanted))}.")

    return judge


def starts_with(asked: Assertion) -> Judge:
    """The text begins with the value."""

    def judge(answer: Answer, row: Row) -> Score:
        wanted = asked.wanted_text(row)
        return verdict(answer.text.startswith(wanted), f"It does not begin with {shown(wanted)}.")

    return judge


def matches(asked: Assertion) -> Judge:
    """The pattern is found in the text, by RE2, whose time grows with the length of the text and no faster."""
    if not isinstance(asked.value, str) or not asked.value:
        raise asked.refused("value", "There is no pattern.", "Give a regular expression.")
    if reason := pattern_fault(asked.value):
        raise asked.refused(
            "value",
            f"This pattern cannot be used: {reason}.",
            "Look-around and back references are not known; say what must not be there with not-regex.",
        )

    def judge(answer: Answer, row: Row) -> Score:
        pattern = asked.wanted_text(row)
        if reason := pattern_fault(pattern):  # a column of the row may stand in it
            raise UndecidedError(f"The pattern cannot be used: {reason}.")
        return verdict(found_in(pattern, answer.text), f"{shown(pattern)} does not match.")

    return judge


def word_count(asked: Assertion) -> Judge:
    """The text has so many words: a number, or a mapping with ``min`` or ``max``."""
    value = asked.value
    bounds = value if isinstance(value, dict) else {"min": value, "max": value}
    least, most = bounds.get("min", 0), bounds.get("max", math.inf)
    counts = [each for each in (least, most) if each != math.inf]
    if not bounds.keys() <= {"min", "max"} or not bounds or not all(map(_is_count, counts)) or least > most:
        raise asked.refused("value", f"It is {value!r}.", "Use a number of words, or min and max.")

    def judge(answer: Answer, _: Row) -> Score:
        words = len(answer.text.split())
        return verdict(least <= words <= most, f"It has {words:,} words.")

    return judge


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def finish_reason(asked: Assertion) -> Judge:
    """The answer ended as the value says: ``stop`` by itself, ``length`` because it was too long."""
    if not isinstance(asked.value, str):
        raise asked.refused("value", f"It is {asked.value!r}.", "Use stop or length.")

    def judge(answer: Answer, row: Row) -> Score:
        if answer.finish_reason is None:
            raise UndecidedError("It is not known how the answer ended.")
        wanted = asked.wanted_text(row)
        return verdict(answer.finish_reason == wanted, f"It ended with {answer.finish_reason}.")

    return judge


def perplexity(asked: Assertion) -> Judge:
    """The model's perplexity of its own answer is at most the threshold; the score is 1 / perplexity."""
    if asked.threshold is None or asked.threshold < 1:
        raise asked.refused("threshold", "A perplexity needs a limit of 1 or more.", "Use, for example, 5.")
    most = asked.threshold

    def judge(answer: Answer, _: Row) -> Score:
        if answer.logprob is None or not answer.tokens:
            raise UndecidedError("The answer has no log-probabilities.")
        mean = answer.logprob / answer.tokens
        found = math.exp(min(-mean, 700.0))
        return verdict(found <= most, f"Its perplexity is {found:.3g}.", score=min(1.0, 1 / found))

    return judge


def _texts(asked: Assertion, row: Row) -> Sequence[str]:
    """Return the values of a list, or of a text with commas between them, of which quotation marks keep some."""
    wanted = asked.wanted(row)
    named = [quoted or plain.strip() for quoted, plain in _ITEM.findall(str(wanted))]
    found = [text for each in (wanted if isinstance(wanted, list) else named) if (text := str(each))]
    if not found:
        raise UndecidedError("There are no values to look for.")
    return found


def _folding(asked: Assertion) -> Callable[[str], str]:
    return str.casefold if asked.word.startswith("i") else str


def shown(value: object) -> str:
    """Return a value as it stands in a reason: short, on one line, in quotation marks."""
    return f"'{shorten(str(value), 60)}'"
