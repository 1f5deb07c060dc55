"""Paraphrases of prompts, written by a model and trained only after a person has accepted them in a file.

A paraphrase is proposed only if it has the same numbers and negations, a similar length, and is not a copy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from backend.data.files import regular_file, unreadable, unwritable
from backend.data.records import Row
from backend.errors import DataError
from backend.utils.file_utils import write_text_durably
from backend.utils.text_utils import normalise

REQUEST = (
    "Say this in other words. Keep every name, number and condition. Answer with the new wording alone.\n\n"
)
"""The instruction to the model, before each prompt."""

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NEGATION = re.compile(r"\b(?:no|not|never|none|without|nor|neither|cannot)\b|n't\b", re.IGNORECASE)


@dataclass(frozen=True)
class Proposal:
    """A paraphrase of one row's prompt; the reviewer sets ``accepted`` to true."""

    place: str
    before: str
    after: str
    accepted: bool = False


def propose(rows: Sequence[Row], paraphrase: Callable[[Sequence[str]], Sequence[str]]) -> list[Proposal]:
    """Return a proposal for each row whose last user message could be reworded.

    ``paraphrase`` takes all of these messages at once and returns as many texts, '' for none.
    """
    prompts = [(row.place, before) for row in rows if (before := _last_prompt(row))]
    reworded = [text.strip() for text in paraphrase([before for _, before in prompts])]
    return [
        Proposal(place, before, after)
        for (place, before), after in zip(prompts, reworded, strict=True)
        if same_meaning_possible(before, after)
    ]


def same_meaning_possible(before: str, after: str) -> bool:
    """Return whether two different texts may mean the same: equal numbers and negations, similar lengths."""
    return (
        normalise(before) != normalise(after)
        and sorted(_NUMBER.findall(before)) == sorted(_NUMBER.findall(after))
        and len(_NEGATION.findall(before)) == len(_NEGATION.findall(after))
        and len(before) <= 3 * len(after) <= 9 * len(before)
    )


def check_place(path: Path) -> None:
    """Raise ``DataError`` when a review exists at ``path`` already, or its folder is missing."""
    if path.exists():
        raise DataError(
            f"{path} exists already, perhaps with decisions in it.",
            remedy="Name another file, or delete this one.",
            code="review-exists",
        )
    if not path.absolute().parent.is_dir():
        raise unwritable(path, FileNotFoundError("its folder does not exist"))


def write_review(proposals: Iterable[Proposal], path: Path) -> None:
    """Write proposals as JSONL for a reviewer to set ``accepted`` in. Raises ``DataError`` on failure."""
    text = "".join(json.dumps(asdict(proposal), ensure_ascii=False) + "\n" for proposal in proposals)
    try:
        write_text_durably(path, text)
    except OSError as error:
        raise unwritable(path, error) from None


def read_review(path: Path) -> list[Proposal]:
    """Return the accepted proposals of a reviewed file; raises ``DataError`` naming the line that cannot be read."""
    try:
        lines = regular_file(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeError) as error:
        raise unreadable(path, error) from None
    accepted = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            proposal = Proposal(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path}:{number} is not a reviewed paraphrase: {error}.",
                remedy="Change only accepted, to true or false.",
                code="bad-review",
            ) from None
        if proposal.accepted is True:
            accepted.append(proposal)
    return accepted


def synthetic_rows(rows: Sequence[Row], accepted: Iterable[Proposal], share: float = 0.5) -> list[Row]:
    """Return new rows with the accepted wording and the answer of their source, at most ``share`` of ``rows``.

    Their place is that of the source followed by ``#paraphrase``; proposals whose row has changed are ignored.
    """
    by_place = {row.place: row for row in rows}
    made: list[Row] = []
    for proposal in accepted:
        row = by_place.get(proposal.place)
        if row is not None and _last_prompt(row) == proposal.before and len(made) < share * len(rows):
            made.append(_reworded(row, proposal.after))
    return made


def _last_prompt(row: Row) -> str:
    return next((message["content"] for message in reversed(row.messages) if message["role"] == "user"), "")


def _reworded(row: Row, after: str) -> Row:
    last = max(number for number, message in enumerate(row.messages) if message["role"] == "user")
    messages = (*row.messages[:last], {**row.messages[last], "content": after}, *row.messages[last + 1 :])
    return replace(row, place=f"{row.place}#paraphrase", messages=messages)
