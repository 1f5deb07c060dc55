"""Cache the summaries of inactive runs in a file, so that a new process can list ten thousand runs at once.

Each entry has the stamp of the folder it was read from. A missing, damaged or foreign file means an empty cache.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson

from backend.errors import NextStep
from backend.manager.run_summary import Labels, RunSummary
from backend.run.reports import RunStatus
from backend.utils.file_utils import write_text_durably
from backend.utils.record_utils import record_from_json

Entries = dict[str, tuple[tuple[int, ...], RunSummary]]
FILE = ".listing.json"
_FIELDS = [field.name for kind in (RunSummary, Labels) for field in fields(kind)]
"""What a row is made of; a file with other fields is another version's."""
_UNLABELLED = Labels()


def load_listing(root: Path) -> Entries:
    """Return the cached summaries of the runs under ``root``. Raises nothing."""
    try:
        seal, _, rows = (root / FILE).read_bytes().partition(b"\n")
        if seal != _seal(rows):
            return {}
        return {name: (tuple(stamp), _summary(root, name, row)) for name, stamp, row in orjson.loads(rows)}
    except (OSError, ValueError, TypeError):
        return {}


def save_listing(root: Path, entries: Entries) -> None:
    """Remember the entries that bear a stamp. A disk that refuses is no reason to complain: it is a cache."""
    kept = [
        (name, stamp, _row(summary)) for name, (stamp, summary) in entries.items() if stamp and _is_text(name)
    ]
    rows = orjson.dumps(kept)
    try:
        write_text_durably(root / FILE, b"\n".join([_seal(rows), rows]).decode())
    except OSError:
        return


def _is_text(name: str) -> bool:
    """Return whether a folder's name is valid text; JSON cannot hold other names, so such a run is never cached."""
    return name.isprintable()


def _seal(rows: bytes) -> bytes:
    """Return a checksum of the rows and fields, which saves checking every value."""
    return hashlib.sha256(f"{_FIELDS}".encode() + rows).hexdigest().encode()


def _row(summary: RunSummary) -> list[object]:
    _, _, *middle, labels, damage, objective = vars(summary).values()
    return [*middle, None if labels == _UNLABELLED else vars(labels), damage, objective]


def _summary(root: Path, name: str, row: list[Any]) -> RunSummary:
    status, reason, message, remedy, step, *middle, labels, damage, objective = row
    said = _UNLABELLED if labels is None else record_from_json(Labels, labels)
    next_step = None if step is None else NextStep(step)
    told = [RunStatus(status), reason, message, remedy, next_step]
    values = [name, root / name, *told, *middle, said, damage, objective]
    return RunSummary(*values)
