"""General questions and texts whose loss shows what a model forgets while it learns something else.

They ship with the product: forty short questions of general knowledge with their answers, and ten plain paragraphs,
all in English. A loss that rises on them is the price of what is learned; with ``data.mix`` it rises less.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from backend.core.encoding.dataset import encode
from backend.core.encoding.examples import Example
from backend.data.records import Row
from backend.errors import TunesmithError
from backend.run.config import DataConfig

_FILE = Path(__file__).with_name("general.jsonl")


@cache
def general_rows() -> tuple[Row, ...]:
    """Return the questions as chats and the paragraphs as texts, in a fixed order."""
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return tuple(_row(json.loads(line), number) for number, line in enumerate(lines, 1))


def _row(cells: dict[str, str], number: int) -> Row:
    place = f"general.jsonl:{number}"
    if "text" in cells:
        return Row(place, text=cells["text"])
    turns = ("user", cells["question"]), ("assistant", cells["answer"])
    return Row(place, messages=tuple({"role": role, "content": content} for role, content in turns))


def general_examples(tokenizer: PreTrainedTokenizerBase, max_length: int) -> Sequence[Example]:
    """Return the general rows as examples, cut at ``max_length`` tokens.

    The questions are asked with the model's chat template, or with none if it has none; a template that refuses them
    leaves the paragraphs.
    """
    data = DataConfig(train=_FILE.name, max_length=max_length, truncation="cut")
    try:
        return list(encode(general_rows(), tokenizer, data))
    except TunesmithError:
        return list(encode([row for row in general_rows() if row.kind == "text"], tokenizer, data))
