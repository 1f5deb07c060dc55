"""The one door to data: files become rows, rows become examples and questions. Floor F2."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from backend.config import AugmentationConfig, DataConfig, RunConfig
from backend.core.examples import Example, Question
from backend.core.tokenizer import (
    Encoded,
    encode_batch,
    encode_messages,
    encode_prompt,
    encode_prompt_completion,
    encode_text,
)
from backend.data.augmentation import oversample
from backend.data.load import Loaded, file_sha256, load_rows
from backend.data.paraphrase import read_review, synthetic_rows
from backend.data.records import Rejected, Row
from backend.data.sources import ReadOptions
from backend.data.splits import group_text, split_rows
from backend.data.store import chosen, kept
from backend.errors import DataError, ModelError, TunesmithError
from backend.token_cache import Tokens, arrays, cached, key_of

ROWS_AT_ONCE = 1024
KEPT_FROM_ROWS = 2_000
"""Smaller sets are tokenised in the time it takes to look for their tokens."""
IGNORED_LABEL = -100
"""Label of a token that is not learned, as transformers and TRL write it."""


@dataclass(frozen=True)
class Dataset:
    """The rows of a run: ``train`` and ``validation``, what was refused, how it was read, and file hashes.

    ``warnings``: what stands in the rows and is not read, a sentence each.
    """

    train: Sequence[Row]
    validation: Sequence[Row]
    rejected: Sequence[Rejected]
    reading: str
    fingerprints: dict[str, str]
    warnings: tuple[str, ...] = ()

    def trained_questions(self) -> list[str]:
        """The places of held-out rows whose prompt a training row has too: a score on them proves nothing."""
        asked = [(row.place, group_text(row)) for row in self.validation]
        trained = {text for _, text in asked}.intersection(map(group_text, self.train))
        return [place for place, text in asked if text in trained]


@dataclass(frozen=True)
class EncodedRows:
    """Examples ready to train on; ``cut`` and ``dropped`` name the rows that were too long.

    ``numbers``: for each example the index of its row among those given.
    """

    examples: list[Example]
    numbers: list[int] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens of all examples."""
        return sum(len(example.input_ids) for example in self.examples)

    @property
    def trained_tokens(self) -> int:
        """Tokens the model learns to say."""
        return sum(int(example.trained[1:].sum()) for example in self.examples)


def load(data: DataConfig, *, seed: int, augmentation: AugmentationConfig | None = None) -> Dataset:
    """Read and split the rows that ``data`` names; ``data.skip_rows`` are then left out of the training side.

    Repeats and reviewed paraphrases, where ``augmentation`` wants them, follow the training rows. Raises DataError
    naming file and row for whatever cannot be used.
    """
    train = _load(data.train, data)
    fingerprints = {data.train: train.sha256}
    rejected, warnings = list(train.rejected), train.warnings
    if isinstance(data.validation, str):
        held_out = _load(data.validation, data)
        fingerprints[data.validation] = held_out.sha256
        rejected += held_out.rejected
        warnings += held_out.warnings
        rows, validation = train.rows, held_out.rows
    else:
        rows, validation = split_rows(train.rows, data.validation, seed, data.split_by)
    rows = _without(rows, data.skip_rows)
    if augmentation and augmentation.paraphrases:
        made = _paraphrased(rows, validation, Path(augmentation.paraphrases))
        rows = kept(itertools.chain(rows, made))
        fingerprints[augmentation.paraphrases] = file_sha256(augmentation.paraphrases)
        _check_pinned(augmentation.paraphrases, fingerprints[augmentation.paraphrases], data)
    if augmentation:
        rows = oversample(rows, augmentation.oversample)
    return Dataset(rows, validation, rejected, train.reason, fingerprints, warnings)


def _paraphrased(rows: Sequence[Row], validation: Sequence[Row], review: Path) -> list[Row]:
    """The accepted paraphrases of a review file as rows, but for those that ask what a held-out row asks."""
    asked = {group_text(row) for row in validation}
    made = synthetic_rows(rows, read_review(review))
    return [row for row in made if group_text(row) not in asked]


def _without(rows: Sequence[Row], places: Sequence[str]) -> Sequence[Row]:
    left_out = set(places)
    if not left_out:
        return rows
    unknown = sorted(left_out.difference(row.place for row in rows))
    if unknown:
        raise DataError(
            f"data.skip_rows names {', '.join(unknown[:3])}, which is no training row.",
            remedy=f"Places look like {rows[0].place if rows else 'train.jsonl:12'}; held-out rows are not trained.",
            code="unknown-place",
        )
    stay = (number for number, row in enumerate(rows) if row.place not in left_out)
    return chosen(rows, np.fromiter(stay, np.int64))


def _load(path: str, data: DataConfig) -> Loaded:
    options = ReadOptions(data.encoding, data.delimiter, data.whole_file, data.sheet)
    loaded = load_rows(path, data.columns, data.max_rejected_share, options)
    _check_pinned(path, loaded.sha256, data)
    return loaded


def _check_pinned(path: str, sha256: str, data: DataConfig) -> None:
    checked = data.sha256.get(path, sha256)
    if checked != sha256:
        raise DataError(
            f"{path} changed since it was checked: its SHA-256 was {checked[:16]}… and is {sha256[:16]}….",
            remedy="Put the original back, or make a new run without data.sha256 on the data as it is now.",
            code="data-changed",
        )


def encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> EncodedRows:
    """Rows as token ids with a mask on what is learned, in order.

    Raises DataError (too-long, nothing-trained, template-refused) naming the row.
    """
    result = EncodedRows([])
    for number, (row, whole) in enumerate(zip(rows, _tokens(rows, tokenizer), strict=True)):
        ids, trained = whole
        if len(ids) > data.max_length:
            if data.truncation == "error":
                raise _too_long(row, len(ids), data.max_length)
            if data.truncation == "drop" or not trained[1 : data.max_length].any():
                result.dropped.append(row.place)
                continue
            result.cut.append(row.place)
            ids, trained = ids[: data.max_length], trained[: data.max_length]
        result.examples.append(Example(ids, trained, row.place))
        result.numbers.append(number)
    if not result.examples:
        raise DataError(
            f"None of the {len(rows)} rows is left to train on.",
            remedy="Raise data.max_length or give more rows.",
            code="no-rows",
        )
    return result


def _tokens(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterator[Tokens]:
    """Every row as arrays; large sets are tokenised once and mapped from then on."""
    if len(rows) < KEPT_FROM_ROWS:
        return map(arrays, encode_each(rows, tokenizer))
    return cached(key_of(rows, tokenizer), lambda: encode_each(rows, tokenizer))


def _too_long(row: Row, length: int, limit: int) -> DataError:
    return DataError(
        f"{row.place} has {length} tokens, more than data.max_length {limit}.",
        remedy=f"Set data.max_length to {length} or more, or choose data.truncation cut or drop.",
        code="too-long",
    )


def encode_each(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterator[Encoded]:
    """Every row, uncut and in order; runs of plain chats take the fast path together. Raises as ``encode`` does."""
    for plain, group in itertools.groupby(rows, key=lambda row: _is_plain_chat(row, tokenizer)):
        if not plain:
            yield from (_at_row(row, _encode_named(row, tokenizer)) for row in group)
            continue
        while chunk := list(itertools.islice(group, ROWS_AT_ONCE)):
            try:
                encoded = encode_batch(tokenizer, [row.messages for row in chunk])
            except TunesmithError:
                encoded = [_encode_named(row, tokenizer) for row in chunk]
            yield from (_at_row(row, one) for row, one in zip(chunk, encoded, strict=True))


def _is_plain_chat(row: Row, tokenizer: PreTrainedTokenizerBase) -> bool:
    plain = row.text is None and row.tools is None and not row.input_ids and not row.segments
    return plain and not _is_preference(row) and tokenizer.chat_template is not None


def _is_preference(row: Row) -> bool:
    return bool(row.chosen) or bool(row.rejected) or row.label is not None


def _encode_named(row: Row, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """One row; an error names it."""
    try:
        return encode_row(row, tokenizer)
    except (DataError, ModelError) as error:
        if error.message.startswith(row.place):
            raise
        raise type(error)(f"{row.place}: {error.message}", remedy=error.remedy, code=error.code) from error


def encode_row(row: Row, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """One row as ids and mask, uncut. Raises DataError and ModelError where the template refuses it."""
    if _is_preference(row):
        raise DataError(
            f"{row.place} is a preference row (an answer preferred to another, or judged good or bad).",
            remedy="Give prompt and completion rows: this method learns from answers as they are.",
            code="preference-rows",
        )
    if row.input_ids:
        return Encoded(list(row.input_ids), [label != IGNORED_LABEL for label in row.labels])
    if row.segments:
        return _encode_segments(row, tokenizer)
    if row.text is not None:
        return encode_text(tokenizer, row.text)
    if tokenizer.chat_template is None:
        return encode_prompt_completion(tokenizer, *_prompt_and_answer(row))
    return encode_messages(tokenizer, row.messages, tools=read_tools(row))


def _encode_segments(row: Row, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Pieces of text that want no template, each tokenised on its own and trained or not."""
    ids: list[int] = []
    trained: list[bool] = []
    for text, learns in row.segments:
        piece = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        ids += piece
        trained += [learns] * len(piece)
    return Encoded(ids, trained)


def _at_row(row: Row, encoded: Encoded) -> Encoded:
    if not any(encoded.trained[1:]):
        raise DataError(
            f"{row.place} has no token to learn: its answer is empty.",
            remedy="Give the row an answer or leave it out.",
            code="nothing-trained",
        )
    return encoded


def _prompt_and_answer(row: Row) -> tuple[str, str]:
    """A single exchange as (prompt, answer), for a model without a chat template."""
    roles = [message["role"] for message in row.messages]
    if roles != ["user", "assistant"]:
        raise DataError(
            f"{row.place} is a conversation ({', '.join(roles)}), and this model has no chat template.",
            remedy="Set model.chat_template, for example to chatml, or use prompt and completion rows.",
            code="no-chat-template",
        )
    return str(row.messages[0]["content"]), str(row.messages[1]["content"])


def read_tools(row: Row) -> list[dict[str, Any]] | None:
    """The tools of a row as the template wants them, or None."""
    return None if row.tools is None else json.loads(row.tools)


def questions(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """Rows as questions: everything before the last answer is the prompt. Rows without one are left out."""
    found: list[Question] = []
    for row in rows:
        if row.text is not None or len(row.messages) < 2 or row.messages[-1]["role"] != "assistant":
            continue
        asked, answer = list(row.messages[:-1]), str(row.messages[-1]["content"])
        if tokenizer.chat_template is None:
            whole = encode_prompt_completion(tokenizer, *_prompt_and_answer(row))
            ids = whole.input_ids[: whole.trained.index(True)]
        else:
            ids = encode_prompt(tokenizer, asked, tools=read_tools(row))
        found.append(Question(row.place, str(asked[-1]["content"]), tuple(ids), answer))
    return found


def load_prompts(path: Path) -> list[tuple[str, Any, str]]:
    """(place, prompt, expected answer or "") of every row of a file, in order.

    A prompt is text or messages. A row may hold a prompt alone (a prompt, a line of text, messages that end with the
    user), or a whole example, whose last answer is then the expected one. Raises DataError.
    """
    return [_as_prompt(row) for row in load_rows(path).rows]


def held_out_prompts(config: RunConfig) -> list[tuple[str, Any, str]]:
    """The held-out rows of a run as (place, prompt, expected answer), split as its trainer split them."""
    return [_as_prompt(row) for row in load(config.data, seed=config.seed).validation]


def _as_prompt(row: Row) -> tuple[str, Any, str]:
    if row.text is not None:
        return row.place, row.text, ""
    messages = list(row.messages)
    answer = str(messages.pop()["content"]) if messages and messages[-1]["role"] == "assistant" else ""
    return row.place, messages, answer
