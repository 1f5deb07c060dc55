"""What each kind of row becomes: backend/core/encoding/row.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from backend.core.encoding import row as row_encoding
from backend.core.encoding.row import encode_each, encode_row, single_exchange, wrong_kind
from backend.core.tokenizer import Encoded, load_tokenizer
from backend.data.records import Row
from backend.errors import DataError, ModelError
from tests.backend.chats import assistant, chat, user
from tests.house import ROOT
from tests.tiny import tiny_tokenizer

CHATML = tiny_tokenizer("chatml")
BASE = tiny_tokenizer("base")


def learned(encoded: Encoded) -> list[int]:
    return [id_ for id_, trained in zip(encoded.input_ids, encoded.trained, strict=True) if trained]


class TestRows:
    @pytest.mark.parametrize(
        ("texts", "said"),
        [
            (("food pork", "meat"), "meat<|im_end|>"),
            (("x", "yes", "y", "no"), "yes<|im_end|>no<|im_end|>"),
        ],
    )
    def test_only_the_answers_and_their_ends_are_trained(self, texts: tuple[str, ...], said: str) -> None:
        assert CHATML.decode(learned(encode_row(chat("r:1", *texts), CHATML))) == said

    def test_plain_text_is_learned_whole(self) -> None:
        encoded = encode_row(Row("r:1", text="hello world"), CHATML)
        assert all(encoded.trained)
        assert CHATML.decode(encoded.input_ids) == "hello world<|im_end|>"

    def test_without_a_template_prompt_and_answer_follow_each_other(self) -> None:
        encoded = encode_row(chat("r:1", "hello", " world"), BASE)
        assert BASE.decode(encoded.input_ids) == "hello world<|endoftext|>"
        assert BASE.decode(learned(encoded)) == " world<|endoftext|>"

    def test_rows_that_are_tokens_already(self) -> None:
        row = Row("r:1", input_ids=(5, 6, 7), labels=(-100, 6, 7))
        assert encode_row(row, CHATML) == Encoded([5, 6, 7], [False, True, True])

    def test_rows_in_pieces(self) -> None:
        encoded = encode_row(Row("r:1", segments=(("Q: x A: ", False), ("y", True))), BASE)
        assert BASE.decode(encoded.input_ids) == "Q: x A: y"
        assert BASE.decode(learned(encoded)) == "y"

    def test_a_single_exchange(self) -> None:
        assert single_exchange(chat("r:1", "a", "b")) == ("a", "b")


def sentence_piece() -> PreTrainedTokenizerFast:
    """A tokenizer of SentencePiece's kind whose every id stands here, with the template of the Mistral family."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "▁",
        "▁food",
        "▁pork",
        "▁pea",
        "r",
        "▁meat",
        "▁fruit",
        "s",
    ]
    backend = Tokenizer(models.Unigram([(piece, -float(len(piece) < 3)) for piece in pieces], unk_id=0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["[INST]", "[/INST]"]})
    tokenizer.chat_template = tiny_tokenizer("mistral").chat_template
    return tokenizer


def byte_level() -> PreTrainedTokenizerFast:
    """The byte-level BPE with a ChatML template that lies beside the runs of format 1, which never changes."""
    return load_tokenizer(ROOT / "tests" / "golden" / "1" / "model")


class TestGolden:
    """Ids and labels as literals: what a release must not change. -100 is the prompt, all else is learned."""

    SYSTEM = (0, 84, 356, 327, 200, 35, 70, 283, 83, 74, 70, 71, 305, 222, 76, 332, 15, 1, 200)
    FOOD_PORK = (0, 391, 200, 71, 80, 342, 370, 76, 1, 200)
    ASSISTANT = (0, 66, 350, 333, 321, 85, 200)
    GRUESSE = (200, 0, 391, 200, 40, 83, 129, 122, 129, 255, 70, 1, 200)

    @pytest.mark.parametrize(
        ("texts", "ids", "labels"),
        [
            (
                ("food pork", "meat"),
                [*SYSTEM, *FOOD_PORK, *ASSISTANT, 78, 70, 293, 1],
                [*[-100] * 36, 78, 70, 293, 1],
            ),
            (
                ("food pork", "meat", "Grüße", "no"),
                [*SYSTEM, *FOOD_PORK, *ASSISTANT, 78, 70, 293, 1, *GRUESSE, *ASSISTANT, 298, 1],
                [*[-100] * 36, 78, 70, 293, 1, *[-100] * 20, 298, 1],
            ),
        ],
    )
    def test_byte_level_bpe_with_chatml(
        self, texts: tuple[str, ...], ids: list[int], labels: list[int]
    ) -> None:
        assert as_literals(encode_row(chat("r:1", *texts), byte_level())) == (ids, labels)

    @pytest.mark.parametrize(
        ("texts", "ids", "labels"),
        [
            (("food pork", "meat"), [1, 3, 6, 7, 5, 4, 10, 2], [-100, -100, -100, -100, -100, -100, 10, 2]),
            (
                ("food pork", "meat", "food pears", "fruit"),
                [1, 3, 6, 7, 5, 4, 10, 2, 3, 6, 8, 9, 12, 5, 4, 11, 2],
                [*[-100] * 6, 10, 2, *[-100] * 7, 11, 2],
            ),
            (("food kale", "meat"), [1, 3, 6, 5, 0, 5, 4, 10, 2], [*[-100] * 7, 10, 2]),
        ],
    )
    def test_sentence_piece_with_mistrals_template(
        self, texts: tuple[str, ...], ids: list[int], labels: list[int]
    ) -> None:
        assert as_literals(encode_row(chat("r:1", *texts), sentence_piece())) == (ids, labels)

    @pytest.mark.parametrize("make", [byte_level, sentence_piece])
    def test_the_ids_are_those_of_transformers(self, make: Callable[[], PreTrainedTokenizerFast]) -> None:
        row, tokenizer = chat("r:1", "food pork", "meat"), make()
        whole = tokenizer.apply_chat_template(list(row.messages))["input_ids"]
        ids = encode_row(row, tokenizer).input_ids
        assert ids == whole[: len(ids)]
        assert tokenizer.decode(whole[len(ids) :]).strip() == ""


def as_literals(encoded: Encoded) -> tuple[list[int], list[int]]:
    pairs = zip(encoded.input_ids, encoded.trained, strict=True)
    return encoded.input_ids, [token if trained else -100 for token, trained in pairs]


def test_whole_sets_and_single_rows_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [chat(f"r:{number}", f"food {number}", "meat" * number) for number in range(1, 8)]
    rows = [*plain[:3], Row("r:t", text="plain text"), *plain[3:]]
    monkeypatch.setattr(row_encoding, "ROWS_AT_ONCE", 2)
    assert list(encode_each(rows, CHATML)) == [encode_row(row, CHATML) for row in rows]


@pytest.mark.parametrize("label", [True, False])
def test_a_judged_answer_is_encoded_like_any_other(label: bool) -> None:
    row = chat("r:1", "food pork", "meat")
    assert encode_row(replace(row, label=label), CHATML) == encode_row(row, CHATML)


@pytest.mark.parametrize(
    ("row", "method", "fitting"),
    [
        (
            Row("r:7", messages=(user("x"),), chosen=(assistant("y"),)),
            "sft",
            "dpo` (or kto, orpo, cpo, simpo)",
        ),
        (Row("r:7", messages=(user("x"), assistant("y")), label=True), "dpo", "kto`"),
        (chat("r:7", "x", "y"), "kto", "sft` (or grpo)"),
        (Row("r:7", text="x"), "kto", "cpt` (or sft)"),
    ],
)
def test_a_row_of_another_method_says_which_methods_fit(row: Row, method: str, fitting: str) -> None:
    error = wrong_kind(row, method)
    assert error.message.startswith("r:7 is a")
    assert f"the method {method} " in error.message
    assert error.remedy.startswith(f"Set `objective.method={fitting}, or")


class TestRowsThatCannotBeLearned:
    @pytest.mark.parametrize(
        ("row", "code"),
        [
            (Row("r:7", messages=(user("x"),)), "nothing-trained"),
            (Row("r:7", messages=(user("x"), assistant("y") | {"trained": False})), "nothing-trained"),
            (Row("r:7", messages=(user("x"),), chosen=(assistant("y"),)), "wrong-rows"),
            (Row("r:7", input_ids=(5, 6), labels=(-100, -100)), "nothing-trained"),
            (Row("r:7", segments=(("x", False),)), "nothing-trained"),
        ],
    )
    def test_they_are_named(self, row: Row, code: str) -> None:
        with pytest.raises(DataError, match="r:7") as caught:
            list(encode_each([chat("r:1", "food pork", "meat"), row], CHATML))
        assert caught.value.code == code
        assert caught.value.remedy

    @pytest.mark.parametrize("tools", [None, "[]"])
    def test_a_conversation_that_the_template_refuses_is_named(self, tools: str | None) -> None:
        row = Row("r:7", messages=(assistant("x"), user("y"), assistant("z")), tools=tools)
        with pytest.raises(DataError, match=r"^r:7: The model's chat template refuses") as caught:
            list(encode_each([row], tiny_tokenizer("gemma")))
        assert caught.value.code == "template-refused"

    def test_a_conversation_without_a_template_is_named(self) -> None:
        with pytest.raises(DataError, match=r"r:7 is a conversation \(user, assistant, user, assistant\)"):
            encode_row(chat("r:7", "a", "b", "c", "d"), BASE)

    @pytest.mark.parametrize("template", ["{% for m in messages %}", "", "{{ raise_exception('Never!') }}"])
    def test_a_template_at_fault_is_named_and_no_row(self, template: str) -> None:
        tokenizer = tiny_tokenizer("chatml")
        tokenizer.chat_template = template
        with pytest.raises(ModelError) as caught:
            list(encode_each([chat("r.jsonl:1", "a", "b")], tokenizer))
        assert caught.value.code == "bad-template"
        assert "r.jsonl" not in caught.value.message
