"""From a path to records: what kind of file it is, and which reader reads it.

Readers stream and hold one row at a time. Nothing is guessed in silence and nothing is dropped: what cannot be
used comes out as ``Rejected`` with its place and reason, and a file that cannot be used at all is a ``DataError``.
"""

from __future__ import annotations

import difflib
import io
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.data.encodings import check_encoding, detect_encoding, open_text
from backend.data.json_files import read_json
from backend.data.records import Record, Rejected
from backend.data.tables import read_table
from backend.data.text_files import read_text
from backend.errors import DataError

HEAD_BYTES = 65_536
SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "table",
    ".tsv": "table",
    ".tab": "table",
    ".txt": "text",
    ".md": "text",
    ".markdown": "text",
}


@dataclass(frozen=True)
class ReadOptions:
    """How to read, where the file itself does not say it.

    ``encoding`` and ``delimiter`` override what is detected; ``whole_file`` makes one row of each text file;
    ``max_row_characters`` is the longest row that is read.
    """

    encoding: str | None = None
    delimiter: str | None = None
    whole_file: bool = False
    max_row_characters: int = 16_000_000


def read(path: str | Path, options: ReadOptions | None = None) -> Iterator[Record | Rejected]:
    """Every record of a file, in order, one at a time.

    Raises ``DataError`` when the path is not a readable file of a known kind, or when the file is broken in a
    way that hides the rows behind the break.
    """
    file = regular_file(Path(path))
    chosen = options or ReadOptions()
    try:
        with io.BufferedReader(file.open("rb", buffering=0), HEAD_BYTES) as stream:
            yield from read_stream(stream, file.name, chosen)
    except UnicodeError as error:
        raise _not_decodable(file.name, error) from None
    except OSError as error:
        raise _unreadable(file, error) from None


def read_stream(
    stream: io.BufferedReader[Any], name: str, options: ReadOptions
) -> Iterator[Record | Rejected]:
    """The records of one open file; ``name`` gives the ending and stands in every place."""
    limit = options.max_row_characters
    head_bytes = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
    if not head_bytes:
        raise DataError(f"{name} is empty.", remedy="Put at least one row into it.", code="empty-file")
    if options.encoding is not None:
        check_encoding(options.encoding)
    head = head_bytes.decode(options.encoding or detect_encoding(head_bytes), errors="ignore")
    kind = _kind(name, head)
    newline = "\n" if kind in ("json", "jsonl") else ""
    with open_text(stream, options.encoding, newline) as text:
        if kind == "table":
            yield from read_table(text, head, name, limit, delimiter=options.delimiter)
        elif kind == "text":
            yield from read_text(text, name, limit, whole_file=options.whole_file)
        else:
            yield from read_json(text, head, name, limit, by_line=kind == "jsonl")


def regular_file(path: Path) -> Path:
    """The path when it is a file that can be read; raises ``DataError`` with the likeliest name otherwise."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist.", remedy=_did_you_mean(path), code="file-not-found"
        ) from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if stat.S_ISREG(mode):
        return path
    what = "a folder" if stat.S_ISDIR(mode) else "no regular file (a pipe, socket or device)"
    raise DataError(f"{path} is {what}.", remedy="Name a data file, such as train.jsonl.", code="not-a-file")


def _kind(name: str, head: str) -> str:
    suffix = Path(name).suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if head.lstrip()[:1] in ("{", "["):
        return "json"
    known = ", ".join(SUFFIXES)
    raise DataError(
        f"{name} is of no known kind: its name ends in none of {known}.",
        remedy="Rename it after what is in it, for example train.jsonl or train.csv.",
        code="unknown-format",
    )


def _did_you_mean(path: Path) -> str:
    try:
        neighbours = sorted(each.name for each in path.parent.iterdir())
    except OSError:
        return f"The folder {path.parent} cannot be listed either; check the path."
    close = difflib.get_close_matches(path.name, neighbours, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(str(path.parent / name) for name in close) + "?"
    return "Check the path; relative paths start at the folder you are in."


def _unreadable(path: Path, error: OSError | ValueError) -> DataError:
    what = getattr(error, "strerror", None) or str(error)
    return DataError(
        f"{path} cannot be read: {what}.",
        remedy="Check its permissions and that nothing else is writing it.",
        code="unreadable-file",
    )


def _not_decodable(name: str, error: UnicodeError) -> DataError:
    return DataError(
        f"{name} is not in the encoding it was read in: {error}.",
        remedy="Set the encoding of the data, for example cp1252, or save the file as UTF-8.",
        code="bad-encoding",
    )
