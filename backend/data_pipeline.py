"""From files to rows, and from rows to examples and questions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from backend.core.encoding.dataset import EncodedRows, encode
from backend.core.encoding.examples import Question
from backend.core.encoding.mixture import Mixture
from backend.core.encoding.prompts import Prompt, Prompts
from backend.core.encoding.row import single_exchange, wrong_kind
from backend.core.encoding.teacher import Teacher
from backend.core.tokenizer import encode_prompt, encode_prompt_completion
from backend.data.augmentation import oversample
from backend.data.dataset import Dataset
from backend.data.exact_json import plain
from backend.data.formats import detect, fits, to_row
from backend.data.load import Loaded, file_sha256, load_rows
from backend.data.locate import locate
from backend.data.paraphrase import read_review, synthetic_rows
from backend.data.records import Record, Row
from backend.data.sources import ReadOptions, read_file
from backend.data.splits import group_text, split_rows, split_warnings
from backend.data.store import rows_at, spill_to_disk
from backend.errors import DataError
from backend.run.config import AugmentationConfig, DataConfig, RunConfig
from backend.run.methods import ANSWERS
from backend.utils.path_utils import user_path

__all__ = [
    "Dataset",
    "EncodedRows",
    "Mixture",
    "Prompt",
    "Prompts",
    "TrainRows",
    "as_prompt",
    "encode",
    "held_out_prompts",
    "held_out_rows",
    "kind_of",
    "load",
    "load_prompts",
    "prompts_of",
    "questions",
    "teacher_of",
    "training_examples",
]

_FIRST = 200
"""Records by which the kind of rows is told."""
TrainRows = EncodedRows | Mixture | Prompts
"""The training rows of a run, as examples or as the prompts that its answers are sampled to."""


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
        warnings += split_warnings(rows, validation, data.validation, data.split_by)
    mixed_in = _load(data.mix, data) if data.mix else None
    if data.mix and mixed_in:
        fingerprints[data.mix] = mixed_in.sha256
        rejected += mixed_in.rejected
        warnings += mixed_in.warnings
    if data.teacher_logprobs:
        fingerprints[data.teacher_logprobs] = _file_sha256(data.teacher_logprobs, data)
    rows = _without(rows, data.skip_rows)
    source = replace(train, rows=rows, rejected=())
    if augmentation and augmentation.paraphrases:
        made = _paraphrased(rows, validation, Path(augmentation.paraphrases))
        rows = spill_to_disk(itertools.chain(rows, made))
        fingerprints[augmentation.paraphrases] = _file_sha256(augmentation.paraphrases, data)
    if augmentation:
        rows = oversample(rows, augmentation.oversample)
    return Dataset(rows, validation, rejected, train.reason, fingerprints, source, warnings, mixed_in)


def kind_of(data: DataConfig) -> str:
    """Return the kind of the rows that ``data`` names to train on, as ``Row.kind``, from its first ones.

    Raises DataError where they cannot be read.
    """
    located = locate(data.train)
    items = itertools.chain.from_iterable(read_file(file, _options(data)) for file in located.files)
    records = [item for item in itertools.islice(items, _FIRST) if isinstance(item, Record)]
    shape = detect(records, data.columns)
    return next(to_row(record, shape).kind for record in records if fits(record, shape))


def _paraphrased(rows: Sequence[Row], validation: Sequence[Row], review: Path) -> list[Row]:
    """Return the accepted paraphrases of a review file, without those whose question is also held out."""
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
    return rows_at(rows, np.fromiter(stay, np.int64))


def _load(path: str, data: DataConfig) -> Loaded:
    loaded = load_rows(path, data.columns, data.max_rejected_share, _options(data))
    _check_pinned(path, loaded.sha256, data)
    return loaded


def _options(data: DataConfig) -> ReadOptions:
    return ReadOptions(data.encoding, data.delimiter, data.whole_file, data.sheet)


def _file_sha256(path: str, data: DataConfig) -> str:
    """Return the SHA-256 of a file beside the rows. Raises DataError ``data-changed``."""
    sha256 = file_sha256(path)
    _check_pinned(path, sha256, data)
    return sha256


def _check_pinned(path: str, sha256: str, data: DataConfig) -> None:
    checked = data.sha256.get(path, sha256)
    if checked != sha256:
        raise DataError(
            f"{path} changed since it was checked: its SHA-256 was {checked[:16]}… and is {sha256[:16]}….",
            remedy="Put the original back, or make a new run without data.sha256 on the data as it is now.",
            code="data-changed",
        )


def training_examples(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, config: RunConfig, *, all_now: bool = True
) -> TrainRows:
    """Return the training rows as ``encode`` does, with the share of others that ``data.mix`` wants among them.

    Rows of a kind that the method does not learn from, such as chats for cpt, are mixed in as ``sft`` learns them. A
    method that samples its own answers gets prompts.
    """
    method = config.objective.method
    if config.objective.facts.samples:
        return prompts_of(dataset.train, config.data.train, tokenizer, config)
    taught = config.data.teacher_logprobs
    own = encode(dataset.train, tokenizer, config.data, method=method, all_now=all_now or taught is not None)
    if not dataset.mix:
        return own
    fits = dataset.mix[0].kind in config.objective.facts.rows  # all rows of a source have one shape
    other = encode(dataset.mix, tokenizer, config.data, method=method if fits else "sft")
    return Mixture(own, other, config.data.mix_share, config.seed)


def teacher_of(config: RunConfig, tokenizer: PreTrainedTokenizerBase, rows: TrainRows) -> Teacher | None:
    """Return the teacher of a run, which has read its training ``rows``; None for a run without one.

    Raises DataError: ``bad-teacher``, and ``another-teacher`` where it read other rows or read them otherwise.
    """
    if config.data.teacher_logprobs is None or isinstance(rows, Prompts):
        return None
    teacher = Teacher(user_path(config.data.teacher_logprobs))
    teacher.require_for(rows, tokenizer)
    return teacher


def questions(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """Return rows as questions: the prompt is all before the last answer. Rows without an answer are left out."""
    found: list[Question] = []
    for row in rows:
        asked, answer = row.prompt_and_answer() or ("", "")
        if isinstance(asked, str) or not asked or not answer:
            continue
        if tokenizer.chat_template is None:
            whole = encode_prompt_completion(tokenizer, *single_exchange(row.answers()[0]))
            ids = whole.input_ids[: whole.trained.index(True)]
        else:
            ids = encode_prompt(tokenizer, asked, tools=row.tool_list())
        found.append(Question(row.place, str(asked[-1]["content"]), tuple(ids), answer))
    return found


def prompts_of(
    rows: Sequence[Row], source: str, tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> Prompts:
    """Return ``rows``, read from ``source``, as prompts with all their columns; an answer is what is expected.

    Raises DataError as ``Prompts`` does, ``wrong-rows`` and whatever the chat template refuses, naming the row.
    """
    objective = config.objective
    columns = _columns(source, config.data)
    return Prompts(
        _prompts(rows, columns, tokenizer, objective.method),
        config.data,
        answer_tokens=objective.max_completion_length,
        generations=objective.num_generations,
    )


def _prompts(
    rows: Sequence[Row],
    columns: Mapping[str, Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    method: str,
) -> Iterator[Prompt]:
    for row in rows:
        if row.kind != ANSWERS:
            raise wrong_kind(row, method)
        asked, expected = row.prompt_and_answer() or ("", "")
        if isinstance(asked, str) or not asked:
            raise DataError(f"{row.place} has no prompt.", remedy="Leave the row out.", code="empty-prompt")
        ids = _prompt_ids(row, asked, tokenizer)
        text = str(asked[-1]["content"])
        yield Prompt(row.place, text, tuple(ids), expected, asked, columns.get(row.place, {}))


def _prompt_ids(row: Row, asked: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if tokenizer.chat_template is not None:
        return encode_prompt(tokenizer, asked, tools=row.tool_list())
    answered = replace(row, messages=(*asked, {"role": "assistant", "content": ""}))
    whole = encode_prompt_completion(tokenizer, *single_exchange(answered))
    return whole.input_ids[: whole.trained.index(True)]


def _columns(source: str, data: DataConfig) -> dict[str, dict[str, Any]]:
    """Return the cells of each record of ``source`` by its place, numbers as numbers."""
    items = itertools.chain.from_iterable(read_file(file, _options(data)) for file in locate(source).files)
    return {item.place: plain(dict(item.cells)) for item in items if isinstance(item, Record)}


def load_prompts(path: Path) -> list[tuple[str, Any, str]]:
    """Return (place, prompt, expected answer or "") of every row of a file, in order.

    A prompt is text or messages. A row is a prompt alone (a prompt, a line of text, messages that end with the user),
    or a whole example, whose last answer is then the expected one. Raises DataError.
    """
    return [as_prompt(row) for row in load_rows(path).rows]


def held_out_rows(config: RunConfig) -> Sequence[Row]:
    """Return the held-out rows of a run, split as its trainer split them."""
    return load(config.data, seed=config.seed).validation


def held_out_prompts(config: RunConfig) -> list[tuple[str, Any, str]]:
    """Return the held-out rows of a run as (place, prompt, expected answer)."""
    return [as_prompt(row) for row in held_out_rows(config)]


def as_prompt(row: Row) -> tuple[str, Any, str]:
    """Return a row as (place, prompt, expected answer or ""), see ``load_prompts``."""
    prompt, expected = row.prompt_and_answer() or ([], "")
    return row.place, prompt, expected
