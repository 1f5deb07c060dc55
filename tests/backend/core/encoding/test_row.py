"""What each kind of row becomes: backend/core/encoding/row.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.core.encoding import row as row_encoding
from backend.core.encoding.row import encode_each, encode_row, single_exchange, wrong_kind
from backend.core.tokenizer import Encoded
from backend.data.records import Row
from backend.errors import DataError, ModelError
from tests.backend.chats import assistant, chat, user
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
        (chat("r:7", "x", "y"), "kto", "sft`"),
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
