"""A long text is cut so that nothing is lost and nothing trained twice: backend/core/encoding/pieces.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.core.encoding import dataset as encoded_rows
from backend.core.encoding.dataset import EncodedRows, encode
from backend.core.encoding.examples import Example
from backend.core.encoding.pieces import is_text, piece_count, piece_number, piece_starts
from backend.core.encoding.row import encode_row
from backend.data import store
from backend.data.records import Row
from backend.errors import DataError
from backend.run.config import DataConfig
from backend.training.batching import pack
from backend.training.evaluation import held_out_loss
from tests.backend.chats import chat
from tests.backend.core.rows import LORA, PLAN, lively_model, start
from tests.tiny import tiny_tokenizer

BASE = tiny_tokenizer("base")
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120), max_size=6)


def documents(texts: Sequence[str]) -> list[Row]:
    return [Row(f"book {number}.txt:1", text=text) for number, text in enumerate(texts, 1)]


def cut(rows: Sequence[Row], limit: int, truncation: str = "error") -> EncodedRows:
    data = DataConfig.model_validate({"train": "x", "max_length": limit, "truncation": truncation})
    return encode(rows, BASE, data, method="cpt")


def joined(pieces: Sequence[Example]) -> list[int]:
    """The ids of consecutive pieces, without the token that each shares with the one before it."""
    return [*pieces[0].input_ids[:1].tolist(), *(i for each in pieces for i in each.input_ids[1:].tolist())]


@given(TEXTS, st.integers(8, 40))
def test_pieces_give_the_documents_back_and_train_every_token_once(texts: list[str], limit: int) -> None:
    rows = documents(["beginning", *(text for text in texts if text.strip())])
    whole = [encode_row(row, BASE).input_ids for row in rows]
    encoded = cut(rows, limit)
    examples = list(encoded)
    of_row = [
        [each for each, n in zip(examples, encoded.numbers, strict=True) if n == row]
        for row in range(len(rows))
    ]
    assert [joined(pieces) for pieces in of_row] == whole
    assert max(len(each.input_ids) for each in examples) <= limit
    assert encoded.trained_tokens == sum(int(each.trained[1:].sum()) for each in examples)
    assert encoded.trained_tokens == sum(map(len, whole)) - len(rows)
    assert encoded.tokens == sum(len(each.input_ids) for each in examples)
    targets = Counter(i for each in examples for i in each.input_ids[1:].tolist())
    assert targets[BASE.eos_token_id] == len(rows)
    assert [ids_and_place(each) for each in examples] == [
        ids_and_place(encoded[i]) for i in range(len(encoded))
    ]


def ids_and_place(example: Example) -> tuple[list[int], str]:
    return example.input_ids.tolist(), example.row


@given(st.integers(2, 200), st.integers(2, 40))
def test_pieces_cover_a_text_with_an_overlap_of_one(length: int, limit: int) -> None:
    starts = piece_starts(np.array([piece_count(length, limit)]), limit).tolist()
    ends = [min(start + limit, length) for start in starts]
    assert starts[0] == 0
    assert ends[-1] == length
    assert [end - 1 for end in ends[:-1]] == starts[1:]
    assert all(end - start >= 2 for start, end in zip(starts, ends, strict=True))
    assert [piece_number(start, limit) for start in starts] == list(range(1, len(starts) + 1))


def test_a_bos_stands_once_before_a_document_and_all_its_tokens_are_trained() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer("llama3")
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    encoded = encode(documents(["meat " * 40]), tokenizer, DataConfig(train="x", max_length=8), method="cpt")
    assert [each.input_ids.tolist().count(tokenizer.bos_token_id) for each in encoded][:3] == [1, 0, 0]
    own = tokenizer.backend_tokenizer.encode("meat " * 40, add_special_tokens=False).ids
    assert encoded.trained_tokens == len(own) + 1


class TestPlaces:
    def test_a_piece_names_its_document_and_its_number(self) -> None:
        encoded = cut(documents(["short", "long " * 20]), 16)
        assert [each.row for each in encoded][:3] == [
            "book 1.txt:1",
            "book 2.txt:1 (piece 1)",
            "book 2.txt:1 (piece 2)",
        ]
        assert encoded.numbers.tolist() == [0] + [1] * (len(encoded) - 1)

    @pytest.mark.parametrize("text", ["", " \n\t "])
    def test_an_empty_document_is_named(self, text: str) -> None:
        with pytest.raises(DataError, match=r"^book 2.txt:1 is an empty text") as caught:
            cut(documents(["word", text]), 16)
        assert caught.value.code == "nothing-trained"


class TestWhatIsCut:
    @pytest.mark.parametrize("truncation", ["error", "cut", "drop"])
    def test_truncation_means_nothing_for_texts(self, truncation: str) -> None:
        encoded = cut(documents(["long " * 30]), 16, truncation)
        assert joined(encoded) == encode_row(documents(["long " * 30])[0], BASE).input_ids
        assert (encoded.cut, encoded.dropped) == ([], [])

    @pytest.mark.parametrize("row", [chat("r:2", "a", "b"), Row("r:2", segments=(("a", True),))])
    @pytest.mark.parametrize("count", [0, 1])
    def test_rows_that_are_no_texts_are_refused(self, row: Row, count: int) -> None:
        with pytest.raises(
            DataError, match=r"^r:2 is .*, from which the method cpt does not learn"
        ) as caught:
            cut([*documents(["long"] * count), row], 16)
        assert caught.value.code == "wrong-rows"
        assert "data.mix" in caught.value.remedy

    def test_ids_after_an_untrained_prompt_stay_whole_and_obey_truncation(self) -> None:
        ids = tuple(range(5, 45))
        late = Row("r:1", input_ids=ids, labels=(*[-100] * 30, *ids[30:]))
        early = Row("r:2", input_ids=ids, labels=(-100, *ids[1:]))
        encoded = cut([*documents(["long " * 30]), late, early], 16, "cut")
        assert (encoded.cut, encoded.dropped) == (["r:2"], ["r:1"])
        assert encoded.numbers.tolist() == [0] * (len(encoded) - 1) + [2]
        with pytest.raises(DataError, match=r"2 of 3 rows are longer than 16 tokens"):
            cut([*documents(["long " * 30]), late, early], 16)

    def test_token_ids_that_are_all_trained_are_a_text_too(self) -> None:
        ids = tuple(range(5, 45))
        text, answer = (
            Row("r:1", input_ids=ids, labels=ids),
            Row("r:2", input_ids=ids, labels=(-100, -100, *ids[2:])),
        )
        assert joined(cut([text], 16)) == list(ids)
        assert cut([answer], 16, "cut").cut == ["r:2"]

    def test_without_being_asked_nothing_is_cut_into_pieces(self) -> None:
        with pytest.raises(DataError, match="longer than 16 tokens"):
            encode(documents(["long " * 30]), BASE, DataConfig(train="x", max_length=16))

    @pytest.mark.parametrize(
        ("trained", "text"), [([1, 1], True), ([0, 1, 1], False), ([0, 0, 1], False), ([1, 1, 0], False)]
    )
    def test_a_text_is_trained_from_its_first_token_to_its_end(self, trained: list[int], text: bool) -> None:
        assert is_text(np.array(trained, bool)) is text


def test_many_documents_are_kept_on_disk_and_come_back_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = documents([f"text {number} " * (number % 7 + 1) for number in range(30)])
    small = cut(rows, 16)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    monkeypatch.setattr(encoded_rows, "BLOCK_ROWS", 10)
    monkeypatch.setattr(encoded_rows, "LARGE_ROWS", 20)
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 0)
    on_disk = store.spill_to_disk(rows)
    for data in (on_disk, rows):
        encoded = encode(data, BASE, DataConfig(train="x", max_length=16), method="cpt", all_now=False)
        assert encoded.is_complete  # the number of pieces decides the number of steps
        assert [ids_and_place(each) for each in encoded] == [ids_and_place(each) for each in small]
        assert encoded.numbers.tolist() == small.numbers.tolist()
    assert len(list((tmp_path / "tokens").iterdir())) == 1


def test_documents_beside_each_other_do_not_see_each_other() -> None:
    """The loss of pieces in one micro-batch is that of each piece alone: no mask has to be asked for."""
    torch.set_num_threads(1)
    examples = list(cut(documents(["one two three " * 4, "four five", "six seven eight " * 6]), 24))
    state = start(lively_model(), LORA)
    (packed,) = pack(examples, budget=10_000)
    together = float(state.forward.loss_sum(packed).detach())
    alone = [held_out_loss(state.forward, [each], PLAN, budget=10_000) for each in examples]
    assert len(examples) > 4
    assert together == pytest.approx(sum(each.loss * each.trained_tokens for each in alone), rel=1e-6)
