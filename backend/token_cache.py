"""Token ids of large data sets on disk, mapped: the second start on the same rows tokenises nothing. Floor F2.

An entry is a folder named after a hash of all that its ids depend on: the rows' content, the tokenizer, its chat
template, the date where a template prints one, and the code that renders. So it is never stale. Its bytes are
checked before use; what is damaged is made again, and a disk that refuses only costs time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xxhash
from transformers import PreTrainedTokenizerBase

from backend.core import batch_encoding, template, template_shape, template_trace, word_cache
from backend.core import tokenizer as tokenizer_room
from backend.core.tokenizer import Encoded
from backend.data.records import Row
from backend.model_names import cache_folder
from backend.utils.file_utils import (
    publish_folder,
    read_json_object,
    remove_folder,
    sweep_temporaries,
    write_json_durably,
)

MAX_BYTES = 4 * 2**30
"""All entries together; the least recently used go first."""

_ROOMS = (batch_encoding, template, template_shape, template_trace, tokenizer_room, word_cache)
_CODE = (*(Path(str(room.__file__)) for room in _ROOMS), Path(__file__).with_name("data_pipeline.py"))
_PARTS = {"ids": np.dtype(np.int32), "trained": np.dtype(np.bool_), "ends": np.dtype(np.int64)}

Tokens = tuple[np.ndarray, np.ndarray]
"""(ids int32, trained bool) of one row."""

log = logging.getLogger("tunesmith")


def arrays(encoded: Encoded) -> Tokens:
    """One row as arrays."""
    return np.asarray(encoded.input_ids, dtype=_PARTS["ids"]), np.asarray(encoded.trained, dtype=bool)


def cached(key: str, encode: Callable[[], Iterable[Encoded]], folder: Path | None = None) -> Iterator[Tokens]:
    """The tokens that ``encode`` gives, in order: mapped from the entry ``key`` where there is a good one.

    Otherwise ``encode`` runs and its result is kept; what it raises is raised, and nothing is kept then.
    """
    folder = folder or cache_folder().with_name("tokens")
    entry = folder / key
    if not _is_good(entry):
        try:
            _write(entry, encode())
        except OSError as error:
            log.warning("The tokens are not kept for the next start: %s", error)
            yield from (arrays(encoded) for encoded in encode())
            return
        _make_room(folder, entry)
    os.utime(entry)
    yield from _read(entry)


def key_of(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of everything that decides the ids and masks of ``rows``; where they stand does not matter."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (*_code(), *_settings(tokenizer)):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    for row in rows:
        fields = (row.messages, row.text, row.tools, row.segments, row.input_ids, row.labels)
        digest.update(repr(fields).encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


@cache
def _code() -> tuple[str, ...]:
    packages = (f"{name} {version(name)}" for name in ("transformers", "tokenizers", "jinja2"))
    return (*packages, *(path.read_text("utf-8") for path in _CODE))


def _settings(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    template = str(tokenizer.chat_template)
    today = str(datetime.now().astimezone().date()) if "strftime" in template else ""
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    return tokenizer.backend_tokenizer.to_str(), template, str(special), today


def _write(entry: Path, encoded: Iterable[Encoded]) -> None:
    """Stream the tokens into a new folder and publish it; raises OSError when the disk refuses."""
    entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep_temporaries(entry.parent)
    staging = entry.parent / f".{entry.name}.{secrets.token_hex(8)}.tmp"
    staging.mkdir(mode=0o700)
    try:
        ends: list[int] = [0]
        with (staging / "ids").open("wb") as ids, (staging / "trained").open("wb") as trained:
            for row in map(arrays, encoded):
                ids.write(row[0].tobytes())
                trained.write(row[1].tobytes())
                ends.append(ends[-1] + len(row[0]))
        (staging / "ends").write_bytes(np.asarray(ends, dtype=_PARTS["ends"]).tobytes())
        write_json_durably(staging / "manifest.json", {name: _digest(staging / name) for name in _PARTS})
        publish_folder(staging, entry)
    except FileExistsError:
        pass  # another process was faster
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _is_good(entry: Path) -> bool:
    """Whether the entry is there and whole; a damaged one is removed."""
    if not entry.is_dir():
        return False
    try:
        manifest = read_json_object(entry / "manifest.json")
        if all(manifest.get(name) == _digest(entry / name) for name in _PARTS):
            return True
    except (OSError, ValueError):
        pass
    log.warning("The kept tokens in %s are damaged and are made again.", entry)
    remove_folder(entry)
    return False


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _read(entry: Path) -> Iterator[Tokens]:
    ids, trained, ends = (
        np.asarray(np.memmap(entry / name, dtype=kind, mode="r")) for name, kind in _PARTS.items()
    )
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        yield ids[start:end], trained[start:end]


def _make_room(folder: Path, newest: Path) -> None:
    """Remove the least recently used entries until all fit; the newest stays, however large."""
    entries = sorted(
        (path for path in folder.iterdir() if path != newest and not path.name.startswith(".")),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    used = _bytes(newest)
    for entry in entries:
        used += _bytes(entry)
        if used > MAX_BYTES:
            remove_folder(entry)


def _bytes(entry: Path) -> int:
    return sum(path.stat().st_size for path in entry.iterdir())
