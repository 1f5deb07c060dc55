"""Summaries of runs at rest, kept beside them so that a new process lists ten thousand at once.

It is a cache and nothing else: each entry carries the stamp of the folder it was read from, and a missing,
damaged or foreign file means no entries. Control wing: imports F0 and its neighbour here.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from backend.manager.run_summary import RunSummary
from backend.utils.file_utils import DamagedFileError, read_json, write_text_durably
from backend.utils.record_utils import record_from_json

Entries = dict[str, tuple[tuple[int, ...], RunSummary]]
FILE = ".listing.json"
_FORMAT = 1
_LIMIT_BYTES = 256 * 2**20


def load_listing(root: Path) -> Entries:
    """What was remembered about the runs under ``root``; raises nothing."""
    try:
        stored = read_json(root / FILE, limit_bytes=_LIMIT_BYTES)
        if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
            return {}
        return {name: _entry(root / name, value) for name, value in stored["runs"].items()}
    except (OSError, DamagedFileError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def save_listing(root: Path, entries: Entries) -> None:
    """Remember the entries that bear a stamp. A disk that refuses is no reason to complain: it is a cache."""
    runs = {name: [stamp, _plain(summary)] for name, (stamp, summary) in entries.items() if stamp}
    try:
        write_text_durably(root / FILE, json.dumps({"format": _FORMAT, "runs": runs}, ensure_ascii=False))
    except OSError:
        return


def _plain(summary: RunSummary) -> dict[str, object]:
    return {**vars(summary), "path": summary.id, "labels": vars(summary.labels)}


def _entry(path: Path, value: list[object]) -> tuple[tuple[int, ...], RunSummary]:
    stamp, summary = value
    if not isinstance(stamp, list) or not all(type(number) is int for number in stamp):
        raise TypeError("a stamp is a list of whole numbers")
    return tuple(stamp), replace(record_from_json(RunSummary, summary), path=path)
