"""What a teacher says of the trained tokens of rows: the likeliest tokens at each, in a file. NumPy only.

Rows are found by their token ids and mask, so they may be split, shuffled or left out. A row that has changed, or
that another template or limit of length renders otherwise, is not found.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from transformers import PreTrainedTokenizerBase

from backend.core.encoding.examples import Example
from backend.errors import DataError
from backend.utils.file_utils import write_bytes_durably

_VERSION = "1"
_NAMED = 3


@dataclass(frozen=True)
class Provenance:
    """Where a file of a teacher's log-probabilities comes from.

    ``teacher``: its name, ``fingerprint``: of its weights. ``tokenizer`` and ``chat_template``: SHA-256. ``k`` tokens
    are kept at each trained token, at this softmax ``temperature``. ``rows``: the source, ``rows_sha256`` its bytes.
    """

    teacher: str
    fingerprint: str
    tokenizer: str
    chat_template: str
    k: int
    temperature: float
    rows: str
    rows_sha256: str
    max_length: int


@dataclass(frozen=True)
class Said:
    """What a teacher says of N trained tokens: ``ids`` int32 [N, k] of the likeliest, ``logprobs`` fp32 [N, k + 1].

    The last column of ``logprobs`` is that of all other tokens together.
    """

    ids: np.ndarray
    logprobs: np.ndarray


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of the tokens of a tokenizer with their ids."""
    tokens = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()


def template_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of the chat template of a tokenizer, that of an empty text if it has none."""
    return hashlib.sha256(str(tokenizer.chat_template or "").encode("utf-8", "surrogatepass")).hexdigest()


def key_of(example: Example) -> bytes:
    """Return the digest, 16 bytes, of the token ids and the mask of a row."""
    ids = np.ascontiguousarray(example.input_ids, np.int32).tobytes()
    return xxhash.xxh3_128_digest(ids + np.packbits(example.trained).tobytes())


def write_teacher(path: Path, said: Iterable[tuple[Example, Said]], provenance: Provenance) -> int:
    """Write what a teacher says of rows into one file, all or nothing; return the number of different rows."""
    kept = {key_of(example): each for example, each in said}
    ends = np.cumsum([0, *(len(each.ids) for each in kept.values())])
    tensors = {
        "keys": np.frombuffer(b"".join(kept), np.uint8).reshape(-1, 16),
        "ends": ends.astype(np.int64),
        "ids": np.concatenate([each.ids for each in kept.values()]).astype(np.int32),
        "logprobs": np.concatenate([each.logprobs for each in kept.values()]).astype(np.float32),
    }
    about = {name: json.dumps(value) for name, value in asdict(provenance).items()}
    write_bytes_durably(path, save(tensors, {"tunesmith_teacher": _VERSION, **about}))
    return len(kept)


def _opened(path: Path) -> Any:
    return safe_open(path, "numpy")


class Teacher:
    """A file that ``write_teacher`` wrote; its numbers stay on disk and are read as rows ask for them.

    Raises DataError ``bad-teacher`` for a file that is none or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = _opened(path)
            about = dict(self._file.metadata() or {})
            if about.pop("tunesmith_teacher", "") != _VERSION:
                raise ValueError("it is another kind of file")
            self.provenance = Provenance(**{name: json.loads(value) for name, value in about.items()})
            self._ids, self._logprobs = self._file.get_slice("ids"), self._file.get_slice("logprobs")
            keys, ends = self._file.get_tensor("keys"), self._file.get_tensor("ends").tolist()
            spans = itertools.pairwise(ends)
            self._spans = dict(zip((key.tobytes() for key in keys), spans, strict=True))
        except (OSError, SafetensorError, ValueError, TypeError) as error:
            raise DataError(
                f"{path} holds no log-probabilities of a teacher: {error}.",
                remedy="Let a teacher read the rows again, and name the file that is then written.",
                code="bad-teacher",
            ) from None

    def of(self, example: Example) -> Said:
        """Return what the teacher says of a row. Raises KeyError if it has not read it."""
        start, end = self._spans[key_of(example)]
        return Said(self._ids[start:end], self._logprobs[start:end])

    def require_for(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that the teacher read exactly these rows, with the tokenizer and template of the student.

        Raises DataError ``another-teacher``.
        """
        about = self.provenance
        if about.tokenizer != tokenizer_sha256(tokenizer):
            raise self._unfit(
                "by a teacher with another tokenizer", "Choose a teacher whose tokens have the same ids"
            )
        if about.chat_template != template_sha256(tokenizer):
            raise self._unfit(
                "with another chat template",
                "Let the teacher read them with that of this run, or set `model.chat_template` to its own",
            )
        missing = [example.row for example in examples if key_of(example) not in self._spans]
        if missing:
            shown = ", ".join(missing[:_NAMED]) + (" …" if len(missing) > _NAMED else "")
            raise self._unfit(
                f"before {len(missing):,} of the {len(examples):,} rows were as they are now ({shown})",
                f"Let the teacher read these rows again, with data.max_length as here (it was {about.max_length:,})",
            )

    def require_fit(self, vocabulary: int) -> None:
        """Check that all ids are below ``vocabulary``. Raises DataError ``another-teacher``."""
        if (highest := int(self._file.get_tensor("ids").max())) >= vocabulary:
            raise self._unfit(
                f"with the token id {highest}, and this model knows those below {vocabulary}",
                "Choose a teacher whose tokens have the same ids",
            )

    def _unfit(self, how: str, remedy: str) -> DataError:
        return DataError(
            f"The log-probabilities in {self.path} were written {how}.",
            remedy=f"{remedy}.",
            code="another-teacher",
        )
