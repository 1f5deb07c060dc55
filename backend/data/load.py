"""A file into rows, with everything that was refused and the fingerprint of what was read."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.data.formats import Shape, detect, to_row
from backend.data.records import Record, Rejected, Row, excerpt
from backend.data.sources import ReadOptions, read, regular_file
from backend.errors import DataError

SAMPLE_RECORDS = 200
MAX_REJECTED_KEPT = 10_000


@dataclass(frozen=True)
class Loaded:
    """The rows of a source, what was refused, how it was read, and the SHA-256 of its bytes."""

    rows: Sequence[Row]
    rejected: tuple[Rejected, ...]
    shape: Shape
    sha256: str

    @property
    def reason(self) -> str:
        """Why the rows were read in this shape, as one sentence."""
        return self.shape.reason


def load_rows(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    max_rejected_share: float = 0.0,
    options: ReadOptions | None = None,
) -> Loaded:
    """Every row of a file in memory.

    ``columns`` maps parts to columns and beats detection. Raises ``DataError`` when the file cannot be read,
    has no rows, or when more than ``max_rejected_share`` (0 to 1) of its records are refused.
    """
    sha256 = file_sha256(path)
    items = read(path, options)
    sample = list(itertools.islice(items, SAMPLE_RECORDS))
    records = [item for item in sample if isinstance(item, Record)]
    if not records and not any(isinstance(item, Rejected) for item in sample):
        raise DataError(f"{path} has no rows.", remedy="Put at least one row into it.", code="no-rows")
    if not records:
        raise _too_many_rejected(
            str(path), [item for item in sample if isinstance(item, Rejected)], len(sample)
        )
    shape = detect(records, columns)
    rows: list[Row] = []
    rejected: list[Rejected] = []
    for item in convert(itertools.chain(sample, items), shape):
        if isinstance(item, Row):
            rows.append(item)
        else:
            rejected.append(item)
    total = len(rows) + len(rejected)
    if len(rejected) > max_rejected_share * total or not rows:
        raise _too_many_rejected(str(path), rejected, total)
    if file_sha256(path) != sha256:
        raise DataError(
            f"{path} changed while it was being read.",
            remedy="Start again once it is complete.",
            code="data-changed",
        )
    return Loaded(rows, tuple(rejected), shape, sha256)


def convert(items: Iterable[Record | Rejected], shape: Shape) -> Iterator[Row | Rejected]:
    """Each record as a row in ``shape``; what does not fit comes out as ``Rejected``."""
    for item in items:
        if isinstance(item, Rejected):
            yield item
            continue
        try:
            yield to_row(item, shape)
        except DataError as error:
            reason = error.message.removeprefix(f"{item.place}: ").removesuffix(".")
            yield Rejected(
                item.place, reason, excerpt(json.dumps(item.cells, ensure_ascii=False, default=repr))
            )


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; raises ``DataError`` when it cannot be read."""
    with regular_file(Path(path)).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _too_many_rejected(path: str, rejected: Sequence[Rejected], total: int) -> DataError:
    shown = "\n".join(f"  {item.place}: {item.reason}" for item in rejected[:3])
    more = f"\n  and {len(rejected) - 3:,} more" if len(rejected) > 3 else ""
    return DataError(
        f"{len(rejected):,} of {total:,} rows of {path} cannot be used:\n{shown}{more}\n",
        remedy="Mend these rows, or allow a share of them to be left out with data.max_rejected_share.",
        code="rejected-rows",
    )
