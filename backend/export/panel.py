"""The panel a certificate stands on: held-out rows of the run, and what the trained model makes of them.

The trained model speaks here as it was trained, its adapter beside the base and not merged, in float32.
Floor F2; imports core, data_pipeline, row_encoding and errors.
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
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from backend import data_pipeline
from backend.config import RunConfig
from backend.core.generation import Decoding, Sampling, context_length
from backend.core.judging import answer_logprobs
from backend.core.tokenizer import decode, encode_prompt
from backend.data.records import Row
from backend.errors import DataError, ExportError, ModelError
from backend.reports import same_answer
from backend.row_encoding import read_tools
from backend.voice import text_ids

ROWS = 32
"""Rows of a panel unless told otherwise."""
FORCED_TOKENS = 8
"""Most answer tokens a row whose whole distribution is compared."""
_ROWS_AT_ONCE = 16

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
class Panel:
    """The questions, conversations of other shapes whose ids alone are compared, and how long answers may be."""

    rows: list[PanelRow]
    shapes: list[tuple[list[dict[str, Any]], list[int]]]
    max_new_tokens: int
    note: str = ""


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
            remedy="Export it with --rows 0, which checks nothing and says so.",
            code="no-panel",
        )
    notes = [] if dataset.validation else ["The run held out no rows: these are rows that it was trained on."]
    changed = [
        path
        for path, digest in dataset.fingerprints.items()
        if (fingerprints or {}).get(path, digest) != digest
    ]
    notes += [f"{Path(path).name} has changed since the training." for path in changed]
    return Panel(chosen, _shapes(chosen[0], tokenizer), config.evaluation.max_new_tokens, " ".join(notes))


def _panel_row(row: Row, tokenizer: PreTrainedTokenizerBase) -> PanelRow | None:
    """A row as a question, or None where it asks none."""
    messages = list(row.messages)
    expected = str(messages.pop()["content"]) if messages and messages[-1]["role"] == "assistant" else ""
    text = row.text if row.text is not None else str(messages[0]["content"]) if len(messages) == 1 else None
    tools = read_tools(row)
    try:
        if tokenizer.chat_template is None:
            ids = text_ids(tokenizer, text) if text else []
            return PanelRow(row.place, None, text, None, expected, ids)
        asked = messages or [{"role": "user", "content": row.text}]
        return PanelRow(row.place, asked, None, tools, expected, encode_prompt(tokenizer, asked, tools=tools))
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
