"""Split rows into training rows and held-out rows.

The hash of a row's group and the seed decide its side. So equal prompts never stand on both sides, and added rows
move none of the old ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xxhash

from backend.data.cleaning import shared_answers
from backend.data.records import Row
from backend.data.store import rows_at
from backend.data.texts import answer_text, prompt_text, question_text
from backend.errors import DataError
from backend.utils.text_utils import counted, normalise


def group_text(row: Row, by: str = "prompt") -> str:
    """Return the text that rows on one side share: the group column if set, else the prompt, answer or file.

    The prompt is everything before the last trained answer, or before the first trained token, tools included; a row
    without a prompt is a group of its own.
    """
    if row.group is not None:
        return row.group
    if by == "document":
        return row.place.rpartition(":")[0]
    asks = question_text(row)
    if by == "answer":
        text = answer_text(row)
        return normalise(text) or text or asks
    return normalise(asks) or asks if prompt_text(row).strip() else asks


def split_rows(
    rows: Sequence[Row], share: float, seed: int, by: str = "prompt"
) -> tuple[Sequence[Row], Sequence[Row]]:
    """Return (train, validation) in file order, with about ``share`` of the groups (0 to below 1) held out.

    A group's side depends on its own text and ``seed`` only, with one exception that keeps a small set usable: when
    no group (or every group) would be held out, the group with the lowest (highest) hash changes sides.
    Raises ``DataError`` for a share above 0 when all rows belong to one group.
    """
    if share == 0:
        return rows, []
    digests = (xxhash.xxh64_intdigest(group_text(row, by).encode("utf-8"), seed=seed) for row in rows)
    hashes = np.fromiter(digests, np.uint64, len(rows))
    distinct = np.unique(hashes)
    if len(distinct) < 2:
        raise DataError(
            f"{counted(len(rows), 'row')} with one and the same {by} cannot be split.",
            remedy="Give a validation file, set data.validation to 0, or set data.split_by.",
            code="cannot-split",
        )
    limit = min(max(share * 2.0**64, int(distinct[0]) + 1), int(distinct[-1]))
    trains = hashes >= np.uint64(math.ceil(limit))
    return rows_at(rows, np.flatnonzero(trains)), rows_at(rows, np.flatnonzero(~trains))


def split_warnings(train: Sequence[Row], validation: Sequence[Row], share: float, by: str) -> tuple[str, ...]:
    """Return a sentence for each way in which a split of ``split_rows`` is not what was requested.

    Warns when the number of held-out rows is off by more than chance allows (three standard deviations of single
    rows) and by more than a fifth, and when training rows give held-out answers to other questions.
    """
    if share == 0:
        return ()
    count = len(train) + len(validation)
    wanted, deviation = share * count, 3 * math.sqrt(count * share * (1 - share))
    found: list[str] = []
    if abs(len(validation) - wanted) > 1 + max(deviation, 0.2 * wanted):
        found.append(
            f"{len(validation):,} of {count:,} rows are held out where {wanted:,.0f} were asked for: rows that share "
            f"their {by} stay together. Set data.split_by, or give a validation file."
        )
    if by != "answer" and (same := len(shared_answers(validation, train))):
        found.append(
            f"{same:,} of the {len(validation):,} held-out rows have an answer that training rows give to other "
            "questions: scores on them prove little. Set data.split_by: answer, or name what belongs together with "
            "data.columns: {group: …}."
        )
    return tuple(found)
