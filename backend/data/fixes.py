"""The doctor's fixes: proposed as a diff, written to a new versioned copy, never to the source.

A copy is a folder: ``OUT/v001/rows.jsonl`` (the mended rows), ``changes.jsonl`` (before and after of each changed
row, with its place in the source) and ``lineage.json`` (what it was made from and how). The next copy is v002.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backend.data.checks.base import Scan
from backend.data.checks.contents import empty_answer
from backend.data.checks.conversations import equal_pair
from backend.data.checks.labels import variants
from backend.data.checks.secrets import redact
from backend.data.cleaning import exact_duplicates, find_leaks, near_duplicate_rows, repair_row
from backend.data.files import unwritable
from backend.data.records import Message, Row
from backend.data.texts import map_texts
from backend.data.write import row_record, write_jsonl
from backend.errors import DataError
from backend.utils.file_utils import publish_folder
from backend.utils.text_utils import writable


@dataclass(frozen=True)
class Change:
    """One row before and after a fix; ``after`` is None when the row is left out."""

    fix: str
    place: str
    before: Row
    after: Row | None


@dataclass(frozen=True)
class Mended:
    """The rows after all fixes, in order, and every change that led to them."""

    rows: tuple[Row, ...]
    changes: tuple[Change, ...]


Fixer = Callable[[Sequence[Row], Sequence[Row]], dict[int, Row | None]]


def mend(rows: Sequence[Row], fixes: Iterable[str], validation: Sequence[Row] = ()) -> Mended:
    """The rows with the named fixes applied one after the other, in the order of ``FIXES``.

    Raises ``DataError`` on an unknown fix. The rows given are not changed.
    """
    wanted = set(fixes)
    if unknown := wanted - set(FIXES):
        raise DataError(
            f"There is no fix called {sorted(unknown)[0]!r}.",
            remedy=f"Use: {', '.join(FIXES)}.",
            code="unknown-fix",
        )
    current = list(rows)
    changes: list[Change] = []
    for name, fixer in FIXES.items():
        if name not in wanted:
            continue
        found = fixer(current, validation)
        changes += [
            Change(name, current[number].place, current[number], found[number]) for number in sorted(found)
        ]
        after = (found.get(number, row) for number, row in enumerate(current))
        current = [row for row in after if row is not None]
    return Mended(tuple(current), tuple(changes))


def write_copy(mended: Mended, out: Path, *, source: str, sha256: str) -> Path:
    """Write the mended rows as the next version under ``out`` and return its folder.

    ``source`` and ``sha256`` are what the rows were loaded from. Raises ``DataError`` when ``out`` is a file or
    cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file.", remedy="Name a folder for the mended copy.", code="not-a-folder")
    versions = [int(each.name[1:]) for each in out.glob("v*") if re.fullmatch(r"v\d{3,}", each.name)]
    version = max(versions, default=0) + 1
    try:
        out.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".partial-", dir=out))
        _fill(staged, mended, {"source": writable(source), "source_sha256": sha256, "version": version})
        staged.chmod(0o755)
        publish_folder(staged, out / f"v{version:03d}")
    except OSError as error:
        raise unwritable(out, error) from None
    return out / f"v{version:03d}"


def _fill(folder: Path, mended: Mended, origin: Mapping[str, object]) -> None:
    write_jsonl(mended.rows, folder / "rows.jsonl")
    lines = (json.dumps(difference(change), ensure_ascii=False) + "\n" for change in mended.changes)
    (folder / "changes.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
    lineage = {
        **origin,
        "rows": len(mended.rows),
        "rows_sha256": hashlib.sha256((folder / "rows.jsonl").read_bytes()).hexdigest(),
        "fixes": dict(sorted(Counter(change.fix for change in mended.changes).items())),
        "left_out": sum(change.after is None for change in mended.changes),
    }
    text = json.dumps(lineage, indent=2, ensure_ascii=False) + "\n"
    (folder / "lineage.json").write_text(text, encoding="utf-8", newline="\n")


def difference(change: Change) -> dict[str, object]:
    """A change as it stands in ``changes.jsonl``: the fix, the place, the record before and after."""
    after = None if change.after is None else row_record(change.after)
    return {"fix": change.fix, "place": change.place, "before": row_record(change.before), "after": after}


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
    """Join neighbours of one speaker, then drop what stands before the first user and after the last answer."""
    if row.chosen or row.label is not None or not row.messages:
        return row
    system = [each for each in row.messages if each["role"] == "system"]
    joined: list[Message] = []
    for message in (each for each in row.messages if each["role"] != "system"):
        last = joined[-1] if joined else None
        if last and last["role"] == message["role"] != "tool" and not {"tool_calls"} & {*last, *message}:
            joined[-1] = {**last, "content": f"{last['content']}\n\n{message['content']}"}
        else:
            joined.append(message)
    while joined and joined[0]["role"] not in ("user", "tool"):
        joined.pop(0)
    while joined and joined[-1]["role"] != "assistant":
        joined.pop()
    if not joined:
        return row
    head = [{"role": "system", "content": "\n\n".join(each["content"] for each in system)}] if system else []
    messages = (*head, *joined)
    return row if messages == row.messages else replace(row, messages=messages)


def _unify_labels(rows: Sequence[Row], _: Sequence[Row]) -> dict[int, Row | None]:
    labels = Scan(rows).labels
    usual = variants(labels)
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


FIXES: Mapping[str, Fixer] = {
    "drop-rejected": lambda _rows, _validation: {},
    "mend-turns": _row_by_row(_mend_turns),  # before what looks at single texts: it joins them
    "repair-text": _row_by_row(repair_row),
    "unescape-html": _row_by_row(lambda row: map_texts(row, html.unescape)),
    "redact-secrets": _row_by_row(lambda row: map_texts(row, redact)),
    "unify-labels": _unify_labels,
    "drop-empty": _where(empty_answer),
    "drop-equal-pairs": _where(equal_pair),
    "drop-duplicates": lambda rows, _: _left_out(exact_duplicates(rows)),
    "drop-near-duplicates": lambda rows, _: _left_out(near_duplicate_rows(rows)),
    "drop-leaks": _drop_leaks("exact"),
    "drop-near-leaks": _drop_leaks("near"),
}
