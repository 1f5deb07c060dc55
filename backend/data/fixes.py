"""The fixes of the data doctor: shown as a diff, written to a new copy (``copies``), never to the source.

A fix changes only rows that its check names, and in them only what the check matched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from backend.data.checks.base import Scan
from backend.data.checks.contents import empty_answer, is_blank_answer
from backend.data.checks.labels import variants
from backend.data.checks.leftovers import unescape_row
from backend.data.checks.preferences import equal_pair, opposed, repeated_question
from backend.data.checks.repeats import MAX_NEAR_ROWS
from backend.data.checks.secrets import redact
from backend.data.cleaning import exact_duplicates, find_leaks, near_duplicate_rows, repair_row
from backend.data.copies import Change, Mended, difference, write_copy
from backend.data.records import Message, Row
from backend.data.texts import is_trained, map_texts
from backend.errors import DataError

__all__ = ["FIXES", "Change", "Mended", "difference", "mend", "write_copy"]

RARER = 4
"""A spelling counts as a mistake if another one of the same label is this many times as common."""
_COMPARING = {"drop-duplicates", "drop-near-duplicates", "drop-leaks", "drop-near-leaks"}
"""Fixes that compare the original rows: two rows with different secrets, both redacted, are no duplicates."""
_PLAIN_KEYS = {"role", "content", "trained"}

Fixer = Callable[[Sequence[Row], Sequence[Row]], dict[int, Row | None]]


def mend(rows: Sequence[Row], fixes: Iterable[str], validation: Sequence[Row] = ()) -> Mended:
    """Return the rows with the named fixes applied in the order of ``FIXES``, and every change.

    ``validation`` are the held-out rows, for the fixes of leaks. Raises ``DataError`` for an unknown fix.
    """
    wanted = set(fixes)
    if unknown := wanted - set(FIXES):
        raise DataError(
            f"There is no fix called {sorted(unknown)[0]!r}.",
            remedy=f"Use: {', '.join(FIXES)}.",
            code="unknown-fix",
        )
    current, given = list(rows), list(rows)
    changes: list[Change] = []
    for name, fixer in FIXES.items():
        if name not in wanted:
            continue
        found = fixer(given if name in _COMPARING else current, validation)
        changes += [
            Change(name, current[number].place, current[number], found[number]) for number in sorted(found)
        ]
        after = [found.get(number, row) for number, row in enumerate(current)]
        given = [row for row, left in zip(given, after, strict=True) if left is not None]
        current = [row for row in after if row is not None]
    return Mended(tuple(current), tuple(changes))


def _left_out(numbers: Iterable[int]) -> dict[int, Row | None]:
    return dict.fromkeys(numbers, None)


def _row_by_row(change: Callable[[Row], Row]) -> Fixer:
    def fixer(rows: Sequence[Row], _: Sequence[Row]) -> dict[int, Row | None]:
        changed = ((number, row, change(row)) for number, row in enumerate(rows))
        return {number: after for number, row, after in changed if after is not row and after != row}

    return fixer


def _where(bad: Callable[[Row], str | None]) -> Fixer:
    def fixer(rows: Sequence[Row], _: Sequence[Row]) -> dict[int, Row | None]:
        return _left_out(number for number, row in enumerate(rows) if bad(row))

    return fixer


def _drop_leaks(kind: str) -> Fixer:
    def fixer(rows: Sequence[Row], validation: Sequence[Row]) -> dict[int, Row | None]:
        leaks = find_leaks(rows, validation) if validation else []
        return _left_out(leak.train for leak in leaks if leak.kind == kind)

    return fixer


def _mend_turns(row: Row) -> Row:
    """Drop messages after the last answer, put the system message first, join adjacent messages of one role.

    Only messages without extra keys that are both trained or both not are joined. A row with a system message after
    an answer stays as it is: the message counts from there on, so it cannot be moved.
    """
    if row.chosen or row.label is not None or not row.messages:
        return row
    roles = [message["role"] for message in row.messages]
    if "assistant" not in roles:
        return row
    turns = list(row.messages)[: len(roles) - roles[::-1].index("assistant")]
    if "system" in [message["role"] for message in turns[roles.index("assistant") :]]:
        return row
    turns = sorted(turns, key=lambda message: message["role"] != "system")  # keeps the order otherwise
    messages = tuple(_joined(turns))
    return row if messages == row.messages else replace(row, messages=messages)


def _joined(messages: Iterable[Message]) -> list[Message]:
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else None
        if last and _can_join(last, message):
            joined[-1] = {**last, "content": f"{last['content']}\n\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def _can_join(one: Message, other: Message) -> bool:
    same = one["role"] == other["role"] != "tool" and is_trained(one) == is_trained(other)
    return same and {*one, *other} <= _PLAIN_KEYS


def _drop_empty(rows: Sequence[Row], _: Sequence[Row]) -> dict[int, Row | None]:
    """Drop rows with empty answers only; in a row with other answers, take the empty ones out of training."""
    found: dict[int, Row | None] = {}
    for number, row in enumerate(rows):
        if not empty_answer(row):
            continue
        blank = [is_trained(message) and is_blank_answer(message) for message in row.messages]
        replies = [message for message in row.messages if message["role"] == "assistant"]
        if row.chosen or all(map(is_blank_answer, replies)):
            found[number] = None
        elif sum(map(is_trained, replies)) > sum(blank):
            pairs = zip(row.messages, blank, strict=True)
            messages = tuple({**message, "trained": False} if empty else message for message, empty in pairs)
            found[number] = replace(row, messages=messages)
    return found


def _unify_labels(rows: Sequence[Row], _: Sequence[Row]) -> dict[int, Row | None]:
    labels = Scan(rows).labels
    times = Counter(labels)
    usual = {
        label: other for label, other in variants(labels).items() if RARER * times[label] <= times[other]
    }
    return {
        number: _with_answer(row, label, usual[label])
        for number, (row, label) in enumerate(zip(rows, labels, strict=False))
        if label in usual
    }


def _with_answer(row: Row, old: str, new: str) -> Row:
    messages = tuple(
        {**message, "content": new}
        if message["role"] == "assistant" and message["content"] == old
        else message
        for message in row.messages
    )
    return replace(row, messages=messages)


def _strip_prompt(row: Row) -> Row:
    """Return the row without the question at the beginning of its answers, if something is left of each."""
    asked = repeated_question(row)
    if not asked:
        return row
    parts = [_without(asked, part) for part in (row.chosen, row.rejected)] if row.chosen else []
    messages = row.messages if row.chosen else _without(asked, row.messages)
    changed = (part[_answer_at(part)] for part in parts or [messages])
    if any(is_blank_answer(message) for message in changed):
        return row
    chosen, rejected = parts or ((), ())
    return replace(row, messages=messages, chosen=chosen, rejected=rejected)


def _without(asked: str, messages: Sequence[Message]) -> tuple[Message, ...]:
    at = _answer_at(messages)
    text = messages[at]["content"].lstrip().removeprefix(asked).lstrip()
    return (*messages[:at], {**messages[at], "content": text}, *messages[at + 1 :])


def _answer_at(messages: Sequence[Message]) -> int:
    """Return the number of the message after the last question, which is 0 in a reply."""
    return max((number for number, each in enumerate(messages, 1) if each["role"] == "user"), default=0)


def _redacted(row: Row) -> Row:
    tools = redact(row.tools) if row.tools else row.tools
    mapped = map_texts(row, redact)
    return mapped if tools == row.tools else replace(mapped, tools=tools)


FIXES: Mapping[str, Fixer] = {
    "drop-rejected": lambda _rows, _validation: {},
    "mend-turns": _row_by_row(_mend_turns),  # first, since it joins the texts that the next ones change
    "repair-text": _row_by_row(repair_row),
    "unescape-html": _row_by_row(unescape_row),
    "redact-secrets": _row_by_row(_redacted),
    "unify-labels": _unify_labels,
    "drop-empty": _drop_empty,
    "strip-prompts": _row_by_row(_strip_prompt),
    "drop-equal-pairs": _where(equal_pair),
    "drop-conflicting-pairs": lambda rows, _: _left_out(opposed(rows).tolist()),
    "drop-duplicates": lambda rows, _: _left_out(exact_duplicates(rows)),
    "drop-near-duplicates": lambda rows, _: _left_out(near_duplicate_rows(rows[:MAX_NEAR_ROWS])),
    "drop-leaks": _drop_leaks("exact"),
    "drop-near-leaks": _drop_leaks("near"),
}
