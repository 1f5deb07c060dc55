"""The panel a certificate stands on: held-out rows of the run, and what the trained model makes of them.

The trained model speaks here as it was trained, its adapter beside the base and not merged, in float32.
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
"""Rows of a panel unless told otherwise."""
FORCED_TOKENS = 8
"""Most answer tokens a row whose whole distribution is compared."""
_ROWS_AT_ONCE = 16
_LONG_ROW_PRODUCTS = 10**12
"""Parameters times tokens of the longest row that is read: half a minute on two cores, for us and for the reader."""
_BY_LENGTH = frozenset({"llama3", "yarn", "longrope", "dynamic"})
"""Rules of position that were made for texts beyond the context of pre-training."""

ODD_TEXTS = (
    "1 22 333 4444, 3.14 and  5   66",
    "I've seen it; WE'RE sure she'd\tgo\n\n\nhome  now \n ",
    "naïve café, 東京 and Москва, 🙂🙃",
    "def f(x):\n    return {'a': [1, 2.5]}  # ok\r\n",
)
"""Texts on which tokenizers part: numbers, spaces, contractions, other scripts, code."""


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
    """A row longer than ``beyond`` tokens, where a model begins to see otherwise: its ids, and what comes next.

    ``logprobs`` are the trained model's at the places of ``forced``, ``[forced, vocabulary]``. Where reading so long
    a row would take too long, there are no ids.
    """

    beyond: int
    prompt_ids: list[int] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)
    logprobs: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Panel:
    """The questions, conversations of other shapes whose ids alone are compared, and how long answers may be.

    ``long`` is a row beyond the length at which this model's positions or windows change; None where nothing does.
    """

    rows: list[PanelRow]
    shapes: list[tuple[list[dict[str, Any]], list[int]]]
    max_new_tokens: int
    note: str = ""
    long: LongRow | None = None


@dataclass(frozen=True)
class Answer:
    """What a model says to one row: ``ids`` end with the token that ended it, where one did."""

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
    """The panel of a run: held-out rows spread evenly, or training rows where it held none out.

    ``fingerprints`` are those of the data that was trained on, by path. Raises DataError where the rows cannot be
    read any more, ExportError (``no-panel``) where none can be asked.
    """
    dataset = data_pipeline.load(config.data, seed=config.seed)
    source = list(dataset.validation) or list(dataset.train)
    every = max(1, len(source) // rows)
    order = [*source[::every], *(row for index, row in enumerate(source) if index % every)]
    room = context_length(model) - config.evaluation.max_new_tokens
    asked = (row for row in (_panel_row(each, tokenizer) for each in order) if row)
    chosen = list(itertools.islice((row for row in asked if 0 < len(row.prompt_ids) < room), rows))
    if not chosen:
        raise ExportError(
            "None of the rows of this run asks a question that fits the model.",
            remedy="Export it with `rows=0`, which checks nothing and says so.",
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
    """Return the number of tokens after which a model sees a text otherwise than before; None where it never does.

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
    """The rows one after the other, over and over, until they are longer than where this model changes."""
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
    """A row as a question, or None where it asks none."""
    prompt, expected = row.prompt_and_answer() or ("", "")
    if not prompt:
        return None
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
    """Conversations of the usual shapes that this template accepts, each with its ids."""
    if row.messages is None:
        return []
    asked = {"role": "user", "content": str(row.messages[-1]["content"])}
    system = {"role": "system", "content": "Answer in one word."}
    more = [{"role": "assistant", "content": "Certainly."}, {"role": "user", "content": "And then?"}]
    found = []
    for messages in ([asked], [system, asked], [asked, *more], [system, asked, *more]):
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
    """What the trained model says to every row under greedy decoding, and with which probabilities."""
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
            said,
            end,
            decode(tokenizer, said),
            answer_logprobs(model, row.prompt_ids, said[:FORCED_TOKENS]).cpu(),
        )
        for row, said, end in zip(panel.rows, ids, ended, strict=True)
    ]


def exact_match(panel: Panel, texts: Sequence[str]) -> float | None:
    """The share of rows answered as expected, see ``same_answer``; None where no row expects anything."""
    pairs = [(text, row.expected) for row, text in zip(panel.rows, texts, strict=True) if row.expected]
    return sum(same_answer(*pair) for pair in pairs) / len(pairs) if pairs else None
