"""From an assertion in promptfoo's words to the check that it means.

The words of promptfoo that need a judge model, a clock or a price are known and refused by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from backend.errors import ConfigError, Problem
from backend.inference.evals import json_checks, likeness, text_checks
from backend.inference.evals.assertion import Assertion, bad_assertion, read_assertion
from backend.inference.evals.labels import label
from backend.inference.evals.likeness import Embed
from backend.inference.evals.python_check import python_check
from backend.inference.evals.text_checks import Judge
from backend.inference.evals.verdicts import Answer, Row, Score, UndecidedError, Verifier

WORDS: dict[str, Callable[[Assertion], Judge]] = {
    "equals": text_checks.equals,
    "contains": text_checks.contains,
    "icontains": text_checks.contains,
    "contains-all": text_checks.contains_all,
    "icontains-all": text_checks.contains_all,
    "contains-any": text_checks.contains_any,
    "icontains-any": text_checks.contains_any,
    "starts-with": text_checks.starts_with,
    "regex": text_checks.matches,
    "word-count": text_checks.word_count,
    "finish-reason": text_checks.finish_reason,
    "perplexity": text_checks.perplexity,
    "is-json": json_checks.is_json,
    "contains-json": json_checks.contains_json,
    "is-valid-openai-tools-call": json_checks.is_tools_call,
    "levenshtein": likeness.levenshtein,
    "rouge-n": likeness.measured,
    "rouge-2": likeness.measured,
    "rouge-l": likeness.measured,
    "bleu": likeness.measured,
    "f-score": likeness.measured,
    "exact-match": text_checks.exact_match,
    "normalised-match": likeness.normalised_match,
    "numeric": likeness.numeric,
    "label": label,
    "json-fields": json_checks.json_fields,
}
"""Type -> what makes its check. Those from ``rouge-2`` on are not promptfoo's, but for ``bleu`` and ``f-score``."""
SPECIAL = ("similar", "python", "assert-set")
NOT_DETERMINISTIC = frozenset(
    {
        *(
            "llm-rubric",
            "g-eval",
            "model-graded-closedqa",
            "model-graded-factuality",
            "factuality",
            "classifier",
        ),
        *("answer-relevance", "context-recall", "context-relevance", "context-faithfulness", "moderation"),
        *(
            "select-best",
            "search-rubric",
            "pi",
            "cost",
            "latency",
            "javascript",
            "ruby",
            "webhook",
            "guardrails",
        ),
    }
)


@dataclass(frozen=True)
class Means:
    """What checks may use beside the texts.

    ``embed`` turns texts into vectors, for ``similar``. ``python`` allows the code of ``python`` assertions, whose
    files lie in ``folder``.
    """

    embed: Embed | None = None
    python: bool = False
    folder: Path = field(default_factory=Path)


ALONE = Means()


@dataclass(frozen=True)
class Check:
    """A ``Verifier`` made of a function; ``negated`` turns what it says around."""

    name: str
    weight: float
    word: str
    negated: bool
    judge: Judge
    closing: Callable[[], None] = lambda: None

    def __call__(self, answer: Answer, row: Row) -> Score:
        """Return what it says of an answer to ``row``."""
        try:
            found = self.judge(answer, row)
        except UndecidedError as undecided:
            return Score(False, 0.0, str(undecided), decided=False)
        if not self.negated:
            return found
        return Score(not found.passed, 1 - found.score, f"It is so: {self.word}." if found.passed else "")

    def close(self) -> None:
        """End what it has started."""
        self.closing()


def make_verifier(assertion: Mapping[str, Any], where: str, means: Means = ALONE) -> Verifier:
    """Return the check of one assertion; ``where`` names its place in errors, such as ``tests[3].assert[0]``.

    Raises ConfigError: ``unknown-assertion`` for a type that is not known or not deterministic, ``bad-assertion`` for
    a key or value that is wrong, ``bad-config`` for a schema that is no YAML.
    """
    asked = read_assertion(assertion, where)
    made = partial(Check, asked.name, asked.weight, asked.word, asked.negated)
    if asked.word == "assert-set":
        members = make_verifiers(assertion.get("assert"), f"{where}.assert", means)
        return made(partial(_all_of, members, asked.threshold), lambda: close_all(members))
    if asked.word == "python":
        check = python_check(asked, means.folder, allowed=means.python)
        return made(check, check.close)
    if asked.word == "similar":
        return made(likeness.similar(asked, means.embed))
    if asked.word not in WORDS:
        raise _unknown(asked.word, where)
    return made(WORDS[asked.word](asked))


def make_verifiers(assertions: Any, where: str, means: Means = ALONE) -> tuple[Verifier, ...]:
    """Return the check of each assertion of a list that is not empty. Raises what ``make_verifier`` raises."""
    if not isinstance(assertions, list) or not assertions:
        raise bad_assertion(where, "There is no list of assertions.", "Write, for example, - type: contains.")
    return tuple(make_verifier(each, f"{where}[{place}]", means) for place, each in enumerate(assertions))


def close_all(verifiers: Sequence[Verifier]) -> None:
    """End what checks have started."""
    for each in verifiers:
        each.close()


def combined(found: Sequence[tuple[float, Score]], threshold: float | None) -> Score:
    """Return one score of several by their weights: all pass, or their weighted mean reaches the threshold.

    Those of weight 0 count for neither. It is undecided where one of the others is.
    """
    counted = [(weight, score) for weight, score in found if weight]
    undecided = [score for _, score in counted if not score.decided]
    if undecided:
        return undecided[0]
    total = sum(weight for weight, _ in counted)
    mean = sum(weight * score.score for weight, score in counted) / total if total else 1.0
    failed = [score for _, score in counted if not score.passed]
    passed = not failed if threshold is None else mean >= threshold
    return Score(passed, mean, "" if passed else failed[0].reason if failed else f"Its score is {mean:.3f}.")


def _all_of(members: Sequence[Verifier], threshold: float | None, answer: Answer, row: Row) -> Score:
    found = combined([(each.weight, each(answer, row)) for each in members], threshold)
    if not found.decided:
        raise UndecidedError(found.reason)
    return found


def _unknown(word: str, where: str) -> ConfigError:
    if word in NOT_DETERMINISTIC:
        message = (
            f"{word} is not deterministic: it needs a judge model, a clock, a price or another language."
        )
        remedy = "Leave it out, or say it with words such as contains, regex or is-json."
    else:
        near = difflib.get_close_matches(word, [*WORDS, *SPECIAL], 1)
        message = f"There is no assertion {word!r}."
        remedy = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join([*WORDS, *SPECIAL])}."
    return ConfigError([Problem(f"{where}.type", message, remedy)], code="unknown-assertion")
