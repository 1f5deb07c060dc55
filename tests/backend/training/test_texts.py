"""Bits per byte and continued beginnings of held-out texts: backend/training/texts.py."""

from __future__ import annotations

import math

import pytest
from tokenizers.processors import TemplateProcessing

from backend.core.encoding.dataset import EncodedRows, encode
from backend.core.tokenizer import decode
from backend.data.records import Row
from backend.run.config import DataConfig
from backend.training.texts import BEGINNING_TOKENS, bits_per_byte, continuations, predicted_bytes
from tests.backend.chats import chat
from tests.tiny import tiny_tokenizer

BASE = tiny_tokenizer("base")
TEXTS = [
    Row("a.txt:1", text="one two three " * 30),
    Row("b.txt:1", text="Ärger über naïve 東京"),
    Row("c:1", text="x"),
]


def encoded(
    rows: list[Row], limit: int = 24, truncation: str = "error", *, method: str = "cpt"
) -> EncodedRows:
    data = DataConfig.model_validate({"train": "x", "max_length": limit, "truncation": truncation})
    return encode(rows, BASE, data, method=method)


def test_a_uniform_guess_among_256_bytes_takes_eight_bits() -> None:
    assert bits_per_byte(1000 * math.log(256), 1000) == pytest.approx(8)


class TestBytes:
    def test_they_are_those_of_all_tokens_but_each_first(self) -> None:
        found = encoded(TEXTS)
        first = [decode(BASE, BASE.backend_tokenizer.encode(row.text).ids[:1]) for row in TEXTS]
        spelled = sum(len(row.text.encode()) for row in TEXTS) - sum(len(text.encode()) for text in first)
        assert predicted_bytes(TEXTS, found, BASE) == spelled
        assert len(found) > len(TEXTS)

    def test_after_a_bos_all_of_them(self) -> None:
        tokenizer = tiny_tokenizer("llama3")
        bos = tokenizer.bos_token
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
        )
        found = encode(TEXTS, tokenizer, DataConfig(train="x"), method="cpt")
        assert predicted_bytes(TEXTS, found, tokenizer) == sum(len(row.text.encode()) for row in TEXTS)

    def test_none_where_an_answer_is_among_them_or_something_was_cut(self) -> None:
        rows = [*TEXTS, chat("r:1", "a", "b")]
        assert predicted_bytes(rows, encoded(rows, 1024, method="sft"), BASE) == 0
        assert predicted_bytes(TEXTS, encoded(TEXTS, truncation="cut", method="sft"), BASE) == 0
        assert predicted_bytes(TEXTS[1:], encoded(TEXTS[1:], truncation="cut", method="sft"), BASE) > 0


class TestContinuations:
    def test_a_beginning_and_what_follows_it(self) -> None:
        (long, short, _) = continuations(TEXTS, encoded(TEXTS, 256), BASE, count=3, length=5)
        ids = BASE.backend_tokenizer.encode(TEXTS[0].text).ids
        assert (long.row, list(long.prompt_ids)) == ("a.txt:1", ids[:BEGINNING_TOKENS])
        assert (long.prompt, long.expected) == (decode(BASE, ids[:32]), decode(BASE, ids[32:37]))
        assert 1 <= len(short.prompt_ids) < len(BASE.backend_tokenizer.encode(TEXTS[1].text).ids)

    @pytest.mark.parametrize(
        ("count", "rows"), [(0, []), (1, ["a.txt:1"]), (9, ["a.txt:1", "b.txt:1", "c:1"])]
    )
    def test_as_many_as_are_asked_for(self, count: int, rows: list[str]) -> None:
        found = continuations(TEXTS, encoded(TEXTS), BASE, count=count, length=5)
        assert [each.row for each in found] == rows

    def test_answers_have_none(self) -> None:
        rows = [chat("r:1", "a", "b")]
        assert continuations(rows, encoded(rows, method="sft"), BASE, count=4, length=5) == []
