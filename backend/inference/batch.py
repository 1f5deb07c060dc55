"""Batch inference: answer every row of a file into another file, in order, resumable after a crash.

Rows are answered in windows of a fixed size, so a row always shares a batch with the same neighbours: a call that was
killed and resumed writes the same bytes as one that was not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.data.load import fingerprint, load_rows
from backend.data.locate import locate
from backend.data.records import Rejected, Row
from backend.data.sources import ReadOptions
from backend.errors import DataError, InferenceError, TunesmithError
from backend.inference.answer import Answerer
from backend.inference.constraint import Constraint
from backend.inference.prompting import Prompt
from backend.utils.file_utils import DamagedFileError, read_json_object, write_json_durably
from backend.utils.jsonl_utils import JsonlWriter, read_jsonl_tail
from backend.utils.lock_utils import LockedError, hold_lock

WINDOW_ROWS = 64
OTHER_SHAPES = (
    {"messages": "messages"},
    {"prompt": "prompt", "completion": "completion"},
    {"prompt": "prompt"},
)
"""Column mappings to try on rows that do not have the shape of most rows of the file."""
_LAYOUT = 3  # version of windows, lines and seeds; raise it when one changes, so that no file mixes two


@dataclass(frozen=True)
class BatchPrompt:
    """One row to answer: its place in the file, prompt, expected answer ("" if unknown) and tools.

    ``problem`` is the reason why it cannot be answered; empty if it can.
    """

    place: str
    prompt: Prompt = ""
    expected: str = ""
    tools: Sequence[dict[str, Any]] | None = None
    problem: str = ""


@dataclass(frozen=True)
class BatchCounts:
    """Counts after answering a file: its rows, those with an answer, those taken over from an earlier call."""

    rows: int
    answered: int
    taken_up: int

    @property
    def failed(self) -> int:
        """Number of rows that have an error instead of an answer."""
        return self.rows - self.answered


def read_prompts(
    path: str | Path, columns: Mapping[str, str] | None = None, reading: ReadOptions | None = None
) -> list[BatchPrompt]:
    """Return every row of a file in order, unusable ones with their ``problem``. Each line of a text file is one.

    A row unlike most others is read by one of ``OTHER_SHAPES``. Raises DataError if the file, or every row of it,
    cannot be read.
    """
    loaded = load_rows(path, columns, 1.0, reading)
    found = {item.place: _refused(item) for item in loaded.rejected}
    for others in OTHER_SHAPES if found and not columns else ():
        with suppress(DataError):  # no row is like this
            again = load_rows(path, others, 1.0, reading)
            refused = {place for place, one in found.items() if one.problem}
            found |= {row.place: _prompt_of(row) for row in again.rows if row.place in refused}
    return sorted([*map(_prompt_of, loaded.rows), *found.values()], key=lambda one: _position(one.place))


def _prompt_of(row: Row) -> BatchPrompt:
    asked = row.prompt_and_answer()
    if asked is None:
        return BatchPrompt(row.place, problem="This row holds tokens or segments, and no prompt.")
    return BatchPrompt(row.place, *asked, row.tool_list())


def _refused(item: Rejected) -> BatchPrompt:
    return BatchPrompt(item.place, problem=f"This row cannot be read: {item.reason}.")


def _position(place: str) -> tuple[str, int]:
    name, _, number = place.rpartition(":")
    return (name, int(number)) if number.isdecimal() else (place, 0)


def answer_file(
    model: Answerer,
    source: Path,
    out: Path,
    *,
    columns: Mapping[str, str] | None = None,
    reading: ReadOptions | None = None,
    stop: Sequence[str] = (),
    constraint: Constraint | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    **sampling: Any,
) -> BatchCounts:
    """Answer every row of ``source`` into ``out``, one JSON line per row, resuming an earlier call that was killed.

    Until the end, ``<out>.progress`` holds a hash of everything the answers depend on. ``progress`` is called with
    (rows done, rows in total). Raises DataError, OSError, and InferenceError ``out-exists`` (``out`` is complete
    already; ``overwrite`` replaces it), ``out-is-source``, ``another-batch`` (unfinished answers of another call),
    ``out-in-use``.
    """
    if out.exists() and source.exists() and out.samefile(source):
        raise InferenceError(
            f"{out} holds the questions.", remedy="Give another `out`.", code="out-is-source"
        )
    asked = read_prompts(source, columns, reading)
    notes = out.with_name(f"{out.name}.progress")
    how = {**(columns or {}), **({"": repr(reading)} if reading and reading != ReadOptions() else {})}
    key = _key(
        model, source, stop, constraint, {**sampling, **({"read as": sorted(how.items())} if how else {})}
    )
    if overwrite:
        notes.unlink(missing_ok=True)
        out.unlink(missing_ok=True)
    _check_place(out, notes, key)
    if not notes.exists():
        write_json_durably(notes, {"key": key, "rows": len(asked), "source": source.name})
    try:
        with hold_lock(out), JsonlWriter(out) as writer:
            done = _done(out, asked)
            answered = sum("answer" in line for line in done)
            progress(len(done), len(asked))
            for start in range(len(done) - len(done) % WINDOW_ROWS, len(asked), WINDOW_ROWS):
                window = asked[start : start + WINDOW_ROWS]
                lines = _answer(model, window, stop, constraint, {"first": start, **sampling})
                for line in lines[max(0, len(done) - start) :]:
                    writer.append(line)
                    answered += "answer" in line
                writer.sync()
                progress(min(start + WINDOW_ROWS, len(asked)), len(asked))
            notes.unlink(missing_ok=True)
    except LockedError as error:
        raise InferenceError(
            f"Another process writes answers into {out}.", remedy="Wait for it.", code="out-in-use"
        ) from error
    return BatchCounts(len(asked), answered, len(done))


def _answer(
    model: Answerer,
    window: Sequence[BatchPrompt],
    stop: Sequence[str],
    constraint: Constraint | None,
    sampling: Mapping[str, Any],
) -> list[dict[str, object]]:
    good = [one for one in window if not one.problem]
    results = iter(
        model.infer_batch(
            [one.prompt for one in good],
            tools=[one.tools for one in good],
            stop=stop,
            constraint=constraint,
            **sampling,
        )
    )
    return [_line(one, one.problem or next(results)) for one in window]


def _line(one: BatchPrompt, result: str | TunesmithError) -> dict[str, object]:
    record: dict[str, object] = {"place": one.place}
    if not one.problem:
        record["prompt"] = one.prompt
    if one.expected:
        record["expected"] = one.expected
    failed = one.problem or isinstance(result, TunesmithError)
    return {**record, ("error" if failed else "answer"): str(result)}


def _key(
    model: Answerer,
    source: Path,
    stop: Sequence[str],
    constraint: Constraint | None,
    sampling: Mapping[str, Any],
) -> str:
    """Return a hash of everything the answers depend on."""
    parts = [_LAYOUT, WINDOW_ROWS, _source_sha256(source), model.identity, list(stop), repr(constraint)]
    text = json.dumps([*parts, sorted(sampling.items())], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _source_sha256(source: Path) -> str:
    located = locate(source)
    return fingerprint(located) + (located.part or "")


def _check_place(out: Path, notes: Path, key: str) -> None:
    if not notes.exists():
        if out.exists():
            raise InferenceError(
                f"{out} is there already.",
                remedy="Give another `out`, or `overwrite` to replace it.",
                code="out-exists",
            )
        return
    try:
        known = read_json_object(notes).get("key")
    except (DamagedFileError, OSError):
        known = None
    if known != key:
        raise InferenceError(
            f"{out} holds unfinished answers to another file, by another model or with other settings.",
            remedy="Give another `out`, or `overwrite` to begin anew.",
            code="another-batch",
        )


def _done(out: Path, asked: Sequence[BatchPrompt]) -> list[dict[str, object]]:
    """Return the lines written so far. Raises DataError if they are not answers to the first rows."""
    found = read_jsonl_tail(out)
    places = [line.get("place") for line in found.records]
    if found.damaged or places != [one.place for one in asked[: len(places)]]:
        raise DataError(
            f"{out} was changed since its answers were written.",
            remedy="Give another `out`, or `overwrite` to begin anew.",
            code="answers-changed",
        )
    return found.records
