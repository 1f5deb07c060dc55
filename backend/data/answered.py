"""Turn the answers of a model to a file of questions into training rows: right ones, or pairs with wrong ones.

The input is what ``tunesmith infer --file`` writes. A stronger model's right answers teach a weaker one (distillation
by rejection sampling), and a model's own wrong answers are the best worse halves of pairs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backend.errors import DataError
from backend.run.reports import same_answer

Keep = Literal["right", "wrong", "all"]


@dataclass(frozen=True)
class Answered:
    """A question that a model answered: its place in its file, prompt, expected answer ("" if unknown) and answer."""

    place: str
    prompt: str | list[dict[str, Any]]
    expected: str
    answer: str

    def is_right(self, pattern: re.Pattern[str] | None) -> bool:
        """True if the answer matches ``pattern`` as a whole, or without one if it is the expected answer."""
        if pattern is not None:
            return pattern.fullmatch(self.answer.strip()) is not None
        return same_answer(self.answer, self.expected)


def read_answers(path: Path) -> tuple[list[Answered], int]:
    """Return the answered questions of a file of ``tunesmith infer``, and how many of its lines have no answer.

    Raises DataError naming the line for one that such a file cannot have.
    """
    found: list[Answered] = []
    unanswered = 0
    try:
        # not splitlines(), which also splits at separators that JSON texts may hold, such as U+2028
        lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _no_answers(f"{path} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        place = f"{path.name}:{number}"
        try:
            record = json.loads(line)
            prompt, answer = record["prompt"], record.get("answer")
            source, expected = str(record.get("place", place)), str(record.get("expected") or "")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _no_answers(f"{place} has no prompt and answer") from None
        if isinstance(answer, str) and answer.strip():
            found.append(Answered(source, prompt, expected, answer))
        else:
            unanswered += 1
    return found, unanswered


def training_rows(
    answers: Iterable[Answered], keep: Keep, pattern: re.Pattern[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield a row for each answer to keep, with the place of its question as ``source``.

    ``right``: prompt and completion, the answers that are right. ``wrong``: pairs of the expected answer and a wrong
    one. ``all``: every answer, marked good or bad. Rows are ``is_right`` by ``pattern``; a wrong answer to a question
    without an expected one makes no pair.
    """
    for each in answers:
        right = each.is_right(pattern)
        row = {"prompt": _plain(each.prompt)}
        if keep == "wrong" and not right and each.expected:
            yield row | {"chosen": each.expected, "rejected": each.answer, "source": each.place}
        elif keep == "right" and right:
            yield row | {"completion": each.answer, "source": each.place}
        elif keep == "all":
            yield row | {"completion": each.answer, "label": right, "source": each.place}


def _plain(prompt: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Return a prompt of one user message as its text; conversations stay as they are."""
    if isinstance(prompt, list) and len(prompt) == 1 and prompt[0].get("role") == "user":
        return str(prompt[0]["content"])
    return prompt


def _no_answers(what: str) -> DataError:
    return DataError(
        f"{what}.",
        remedy="Give a file of answers, as answering a file of prompts writes it.",
        code="no-answers",
    )
