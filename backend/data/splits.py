"""Which rows train and which are held out.

A row's side is decided by the hash of its group and the seed alone, so equal prompts never stand on both sides
and adding rows moves none of the old ones.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import xxhash

from backend.data.records import Row
from backend.errors import DataError


def normalise(text: str) -> str:
    """The text for comparing: NFKC, lower case, runs of spaces and punctuation as one space."""
    folded = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join("".join(each if each.isalnum() else " " for each in folded.lower()).split())


def group_text(row: Row, by: str = "prompt") -> str:
    """What rows must share to stay on one side: the group column if set, else the prompt or the answer.

    The prompt is everything before the first assistant message; a plain-text row is its own text.
    """
    if row.group is not None:
        return row.group
    if by == "answer":
        answers = [message["content"] for message in row.messages if message["role"] == "assistant"]
        return normalise("\n".join(answers)) if answers else normalise(row.text or "")
    prompt = []
    for message in row.messages:
        if message["role"] == "assistant":
            break
        prompt.append(message["content"])
    return normalise("\n".join(prompt)) if prompt else normalise(row.text or "")


def split_rows(
    rows: Sequence[Row], share: float, seed: int, by: str = "prompt"
) -> tuple[list[Row], list[Row]]:
    """``(train, validation)`` in file order, with about ``share`` of the groups (0 to below 1) held out.

    A group's side depends on its own text and ``seed`` only. The one exception keeps a small set usable: when
    no group (or every group) falls below the share, the group with the lowest (highest) hash changes sides.
    Raises ``DataError`` when a share above 0 is asked of rows that all belong to one group.
    """
    if share == 0:
        return list(rows), []
    hashes = [xxhash.xxh64_intdigest(group_text(row, by).encode("utf-8"), seed=seed) for row in rows]
    distinct = sorted(set(hashes))
    if len(distinct) < 2:
        raise DataError(
            f"The {len(rows)} rows cannot be split: they all have the same {by}.",
            remedy="Give a validation file, set data.validation to 0, or split by another group.",
            code="cannot-split",
        )
    limit = min(max(share * 2.0**64, distinct[0] + 1), distinct[-1])
    train = [row for row, each in zip(rows, hashes, strict=True) if each >= limit]
    validation = [row for row, each in zip(rows, hashes, strict=True) if each < limit]
    return train, validation
