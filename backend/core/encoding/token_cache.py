"""A disk cache of token ids: a second start on the same large data set tokenises nothing.

An entry is a folder named after a hash of everything its ids depend on: the rows' content, the tokenizer, its chat
template, the date if the template prints it, and the version of the encoding code. So it is never stale. Its bytes
are verified before use and then memory-mapped. A damaged entry is made again; a disk that cannot be written costs
only time.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import IO, Self, overload

import numpy as np
import xxhash
from transformers import PreTrainedTokenizerBase

from backend.core.templates.template import end_tokens, printed_dates, template_time
from backend.core.tokenizer import Encoded
from backend.data.records import Row
from backend.errors import ConfigError
from backend.run.model_names import cache_folder
from backend.utils.file_utils import (
    files_under,
    modified_ns,
    publish_folder,
    read_json_object,
    remove_folder,
    sweep_temporaries,
    temporary_name,
    write_json_durably,
)

MAX_BYTES = 4 * 2**30
"""Limit of all entries together; the least recently used are deleted first."""

ENCODING = "1"
"""Part of every key. Raise it when the same rows get other ids or masks; a test fails if you do not."""
_PARTS = {"ids": np.dtype(np.int32), "trained": np.dtype(np.bool_), "ends": np.dtype(np.int64)}

Tokens = tuple[np.ndarray, np.ndarray]
"""(ids int32, trained bool) of one row."""

log = logging.getLogger("tunesmith")


@dataclass(frozen=True)
class TokenTable(Sequence[Tokens]):
    """The tokens of many rows, concatenated: ``ids`` int32 [T], ``trained`` bool [T], ``ends`` int64 [rows + 1].

    Row ``i`` has the tokens from ``ends[i]`` to ``ends[i + 1]``. A slice shares ``ids`` and ``trained``.
    """

    ids: np.ndarray
    trained: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, encoded: Sequence[Encoded]) -> Self:
        """Return the rows as a table in memory."""
        ends = np.cumsum([0, *(len(row.input_ids) for row in encoded)])
        ids = itertools.chain.from_iterable(row.input_ids for row in encoded)
        trained = itertools.chain.from_iterable(row.trained for row in encoded)
        return cls(
            np.fromiter(ids, _PARTS["ids"], ends[-1]),
            np.fromiter(trained, _PARTS["trained"], ends[-1]),
            ends.astype(_PARTS["ends"]),
        )

    @property
    def all_ids(self) -> np.ndarray:
        """The ids of all rows of this table, concatenated."""
        return self.ids[self.ends[0] : self.ends[-1]]

    @property
    def all_trained(self) -> np.ndarray:
        """The mask of all rows of this table, concatenated."""
        return self.trained[self.ends[0] : self.ends[-1]]

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, index: int) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Tokens | Self:
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return type(self)(self.ids, self.trained, self.ends[start : max(start, stop) + 1])
        start = range(len(self))[index]
        here = slice(self.ends[start], self.ends[start + 1])
        return self.ids[here], self.trained[here]


def load_cached(key: str, folder: Path | None = None) -> TokenTable | None:
    """Return the entry ``key``, memory-mapped; None if there is none, it is damaged, or the disk fails."""
    entry = (folder or _folder()) / key
    try:
        if not _is_good(entry):
            return None
        table = TokenTable(
            *(np.asarray(np.memmap(entry / name, dtype=kind, mode="r")) for name, kind in _PARTS.items())
        )
    except OSError as error:  # another process may have just deleted it
        log.warning("The kept tokens in %s cannot be used and are made again: %s", entry, error)
        return None
    with contextlib.suppress(OSError):  # marks it as used; on a read-only disk nothing is evicted anyway
        os.utime(entry)
    return table


def write_through(key: str, tables: Iterable[TokenTable], folder: Path | None = None) -> Iterator[TokenTable]:
    """Yield ``tables`` unchanged and write them to the entry ``key``, which appears after the last one.

    Nothing is cached if the iteration stops early or raises. If the disk fails, a warning is logged and no row lost.
    """
    with contextlib.closing(_EntryWriter((folder or _folder()) / key)) as writer:
        for table in tables:
            yield table
            writer.add(table)
        writer.publish()


def key_of(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of everything that decides the ids and masks of ``rows``; their places in files do not matter."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (*_code(), *_settings(tokenizer)):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    for row in rows:
        fields = (row.messages, row.text, row.tools, row.segments, row.input_ids, row.labels)
        digest.update(repr(fields).encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


@cache
def _code() -> tuple[str, ...]:
    return (ENCODING, *(f"{name} {version(name)}" for name in ("transformers", "tokenizers", "jinja2")))


def _settings(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    template = str(tokenizer.chat_template)
    today = printed_dates(template, template_time(tokenizer))
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    ends = str(sorted(end_tokens(tokenizer)))
    return tokenizer.backend_tokenizer.to_str(), template, str(special), ends, today


def _folder() -> Path:
    try:
        return cache_folder("tokens")
    except ConfigError:  # no home, as in some containers
        return Path(os.devnull)  # not a folder: every read and write fails, and nothing is cached


class _EntryWriter:
    """Writes an entry into a temporary folder. The first OSError is logged and ends the writing. ``close`` it."""

    def __init__(self, entry: Path) -> None:
        self._entry = entry
        # no staged_folder: a disk that refuses ends this entry, and not the block that takes its rows
        self._staging = temporary_name(entry)
        self._ends = [np.zeros(1, _PARTS["ends"])]
        self._files: list[IO[bytes]] = []
        self._refused = False
        with self._stopped_by_oserror():
            entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            sweep_temporaries(entry.parent)
            self._staging.mkdir(mode=0o700)
            self._files = [(self._staging / name).open("wb") for name in ("ids", "trained")]

    def add(self, table: TokenTable) -> None:
        """Append the rows of a table, unless writing failed before."""
        if self._refused:
            return
        with self._stopped_by_oserror():
            for file, values in zip(self._files, (table.all_ids, table.all_trained), strict=True):
                file.write(values.tobytes())
            self._ends.append(table.ends[1:] - table.ends[0] + self._ends[-1][-1])
            os.utime(self._staging)  # a fresh mtime, or another process sweeps it as a leftover

    def publish(self) -> None:
        """Publish the entry, unless writing failed; one that another process published meanwhile stays."""
        if self._refused:
            return
        with self._stopped_by_oserror():
            for file in self._files:
                file.close()
            (self._staging / "ends").write_bytes(np.concatenate(self._ends).tobytes())
            digests = {name: _digest(self._staging / name) for name in _PARTS}
            write_json_durably(self._staging / "manifest.json", digests)
            with contextlib.suppress(FileExistsError):
                publish_folder(self._staging, self._entry)
            _evict(self._entry)

    def close(self) -> None:
        """Close the files and delete what was not published."""
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()
        shutil.rmtree(self._staging, ignore_errors=True)

    @contextlib.contextmanager
    def _stopped_by_oserror(self) -> Iterator[None]:
        """Log an OSError inside the block and give this entry up."""
        try:
            yield
        except OSError as error:
            log.warning("The tokens are not kept for the next start: %s", error)
            self._refused = True
            self.close()


def _is_good(entry: Path) -> bool:
    """True if the entry exists and matches its hashes; a damaged one is deleted."""
    if not entry.is_dir():
        return False
    try:
        manifest = read_json_object(entry / "manifest.json")
        if all(manifest.get(name) == _digest(entry / name) for name in _PARTS):
            return True
    except (OSError, ValueError):
        pass
    log.warning("The kept tokens in %s are damaged and are made again.", entry)
    with contextlib.suppress(OSError):
        remove_folder(entry)
    return False


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()


def _evict(newest: Path) -> None:
    """Delete the least recently used entries until all fit into ``MAX_BYTES``; ``newest`` always stays."""
    entries = sorted(
        (path for path in newest.parent.iterdir() if path != newest and not path.name.startswith(".")),
        key=modified_ns,
        reverse=True,
    )
    used = _bytes(newest)
    for entry in entries:
        used += _bytes(entry)
        if used > MAX_BYTES:
            remove_folder(entry)


def _bytes(entry: Path) -> int:
    return sum(file.st_size for file in files_under(entry).values())
