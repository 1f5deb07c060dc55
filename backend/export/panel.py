"""The panel of a certificate: held-out rows of the run, and the trained model's answers to them.

The trained model answers as it was trained: in float32, its adapter applied to the base and not merged.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from backend import data_pipeline
from backend.core.tokenizer import decode, encode_prompt
from backend.data.records import Row
from backend.errors import DataError, ExportError, ModelError
from backend.inference.decoding import Decoding, Sampling, context_length
from backend.inference.logprobs import answer_logprobs
from backend.inference.prompting import text_ids
from backend.run.config import RunConfig
from backend.run.reports import same_answer

ROWS = 32
"""The default number of rows of a panel."""
FORCED_TOKENS = 8
"""The number of first answer tokens whose whole distribution is compared."""
_ROWS_AT_ONCE = 16
_BEGINNING_CHARACTERS = 200
_LONG_ROW_PRODUCTS = 10**12
"""Limit of parameters × tokens of the long row: half a minute on two cores, for us and again for the reader."""
_BY_LENGTH = frozenset({"llama3", "yarn", "longrope", "dynamic"})
"""Kinds of rotary embedding that extend the context of pre-training."""

ODD_TEXTS = (
    "1 22 333 4444, 3.14 and  5   66",
    "I've seen it; WE'RE sure she'd\tgo\n\n\nhome  now \n ",
    "naïve café, 東京 and Москва, 🙂🙃",
    "def f(x):\n    return {'a': [1, 2.5]}  # ok\r\n",
)
"""Texts that tokenizers often split differently: numbers, spaces, contractions, other scripts, code."""


@dataclass(frozen=True)
class PanelRow:
    """One question: ``messages``, or ``text`` for a model without a template; ``expected`` may be empty."""

    place: str
    messages: list[dict[str, Any]] | None
    text: str | None
    tools: list[dict[str, Any]] | None
    expected: str
    prompt_ids: list[int]


@dataclass(frozen=True)
class LongRow:
    """A row of more than ``beyond`` tokens, from where the model's positions or windows change.

    ``logprobs`` are the trained model's at the positions of ``forced``, ``[forced, vocabulary]``. If reading such a
    row would take too long, there are no ids.
    """

    beyond: int
    prompt_ids: list[int] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)
    logprobs: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Panel:
    """The rows to ask, conversations of other shapes of which only the ids are compared, and the length of answers.

    ``long`` is a row beyond the length at which this model's positions or windows change; None if they never do.
    """

    rows: list[PanelRow]
    shapes: list[tuple[list[dict[str, Any]], list[int]]]
    max_new_tokens: int
    note: str = ""
    long: LongRow | None = None


@dataclass(frozen=True)
class Answer:
    """A model's answer to one row; ``ids`` include the end token if there is one."""

    ids: list[int]
    ended: bool
    text: str
    logprobs: Tensor | None = field(default=None, repr=False)
    """Of the first tokens of the trained model's answer, ``[tokens, vocabulary]``."""


def read_panel(
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel | PeftModel,
    *,
    rows: int,
    fingerprints: Mapping[str, str] | None = None,
) -> Panel:
    """Return the panel of a run: an even sample of its held-out rows, or of its training rows if there are none.

    ``fingerprints`` are the SHA-256 of the training data, by path. Raises DataError if the rows cannot be read any
    more, ExportError (``no-panel``) if none can be asked.
    """
    dataset = data_pipeline.load(config.data, seed=config.seed)
    source = list(dataset.validation) or list(dataset.train)
    every = max(1, len(source) // rows)
    order = [*source[::every], *(row for index, row in enumerate(source) if index % every)]
    room = context_length(model) - config.evaluation.max_new_tokens
    usable = (row for row in (_panel_row(each, tokenizer) for each in order) if row)
    chosen = list(itertools.islice((row for row in usable if 0 < len(row.prompt_ids) < room), rows))
    if not chosen:
        raise ExportError(
            "None of this run's rows has a prompt that fits the model.",
            remedy="Export it with `rows=0`, which checks nothing; the certificate then says so.",
            code="no-panel",
        )
    notes = [] if dataset.validation else ["The run held out no rows: these are rows that it was trained on."]
    changed = [
        path
        for path, digest in dataset.fingerprints.items()
        if (fingerprints or {}).get(path, digest) != digest
    ]
    notes += [f"{Path(path).name} has changed since the training." for path in changed]
    longest = config.evaluation.max_new_tokens
    return Panel(chosen, _shapes(chosen[0], tokenizer), longest, " ".join(notes), _long_row(model, chosen))


def length_where_it_changes(config: PretrainedConfig) -> int | None:
    """Return the number of tokens after which a model's positions or windows change; None if they never do.

    That is where scaled positions leave the context of pre-training, or an attention window begins to slide.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    parts = [part for part in rope.values() if isinstance(part, Mapping)] or [rope]
    lengths = [
        part.get("original_max_position_embeddings") or text.max_position_embeddings
        for part in parts
        if part.get("rope_type") in _BY_LENGTH
    ]
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"]
    window = getattr(text, "sliding_window", None)
    return max([*lengths, *([window] if window and "sliding_attention" in kinds else [])], default=None)


@torch.inference_mode()
def _long_row(model: PreTrainedModel | PeftModel, rows: Sequence[PanelRow]) -> LongRow | None:
    """Return a row longer than ``length_where_it_changes``: prompts of the panel repeated one after the other."""
    beyond = length_where_it_changes(model.config)
    if beyond is None:
        return None
    length = beyond + 2 * FORCED_TOKENS
    if length * sum(part.numel() for part in model.parameters()) > _LONG_ROW_PRODUCTS:
        return LongRow(beyond)
    ids = itertools.chain.from_iterable(row.prompt_ids for row in itertools.cycle(rows))
    whole = list(itertools.islice(ids, length + FORCED_TOKENS))
    prompt, forced = whole[:length], whole[length:]
    return LongRow(beyond, prompt, forced, answer_logprobs(model, prompt, forced).cpu())


def _panel_row(row: Row, tokenizer: PreTrainedTokenizerBase) -> PanelRow | None:
    """Return a row as a question, or None if it has no prompt that can be rendered."""
    prompt, expected = row.prompt_and_answer() or ("", "")
    if not prompt:
        return None
    if isinstance(prompt, str):  # a text, maybe a whole book: its beginning is asked
        prompt = prompt[:_BEGINNING_CHARACTERS]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    text = str(messages[0]["content"]) if len(messages) == 1 else None
    tools = row.tool_list()
    try:
        if tokenizer.chat_template is None:
            ids = text_ids(tokenizer, text) if text else []
            return PanelRow(row.place, None, text, None, expected, ids)
        ids = encode_prompt(tokenizer, messages, tools=tools)
        return PanelRow(row.place, messages, None, tools, expected, ids)
    except (DataError, ModelError):
        return None


def _shapes(
    row: PanelRow, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[list[dict[str, Any]], list[int]]]:
    """Return the conversations of usual shapes that this template accepts, each with its ids."""
    if row.messages is None:
        return []
    question = {"role": "user", "content": str(row.messages[-1]["content"])}
    system = {"role": "system", "content": "Answer in one word."}
    more = [{"role": "assistant", "content": "Certainly."}, {"role": "user", "content": "And then?"}]
    found = []
    for messages in ([question], [system, question], [question, *more], [system, question, *more]):
        with suppress(DataError, ModelError):
            found.append((messages, encode_prompt(tokenizer, messages)))
    return found


@torch.inference_mode()
def answer(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    panel: Panel,
    stop_ids: set[int],
) -> list[Answer]:
    """Return the trained model's greedy answers to all rows, with the log-probabilities of their first tokens."""
    ids: list[list[int]] = [[] for _ in panel.rows]
    ended = [False] * len(panel.rows)
    order = sorted(range(len(panel.rows)), key=lambda index: len(panel.rows[index].prompt_ids))
    for start in range(0, len(order), _ROWS_AT_ONCE):
        chunk = order[start : start + _ROWS_AT_ONCE]
        prompts = [panel.rows[index].prompt_ids for index in chunk]
        decoding = Decoding(model, prompts, Sampling(max_new_tokens=panel.max_new_tokens), stop_ids)
        while decoding.rows:
            for token in decoding.step():
                ids[chunk[token.row]].append(token.token_id)
                ended[chunk[token.row]] = token.finish == "stop"
    return [
        Answer(
            tokens,
            end,
            decode(tokenizer, tokens),
            answer_logprobs(model, row.prompt_ids, tokens[:FORCED_TOKENS]).cpu(),
        )
        for row, tokens, end in zip(panel.rows, ids, ended, strict=True)
    ]


def exact_match(panel: Panel, texts: Sequence[str]) -> float | None:
    """Return the share of rows answered as expected (``same_answer``); None if no row has an expected answer."""
    pairs = [(text, row.expected) for row, text in zip(panel.rows, texts, strict=True) if row.expected]
    return sum(same_answer(*pair) for pair in pairs) / len(pairs) if pairs else None
