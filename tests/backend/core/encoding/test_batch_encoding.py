from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, processors

from backend.core.encoding.batch_encoding import BatchEncoder
from backend.core.tokenizer import encode_messages
from tests.backend.core.chat_templates import NEXT_OPENS, TWO_ENDS, templated
from tests.tiny import tiny_tokenizer

FAST = ("chatml", "llama3", "gemma", "mistral", "qwen3")
CHAT = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello you."}]
fragments = st.sampled_from(
    [
        "<|im_end|>",
        "<|im_",
        "|>",
        "[INST]",
        "</s>",
        "<eos>",
        "<think>",
        " ",
        "  ",
        "\n",
        "\n\n",
        "word",
        "1. a",
    ]
)
texts = st.lists(fragments | st.text(max_size=4), max_size=6).map("".join)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, object]]:
    turns = draw(st.integers(1, 3))
    flags = draw(st.lists(st.booleans(), min_size=turns, max_size=turns).filter(any))
    return [
        message
        for flag in flags
        for message in (
            {"role": "user", "content": draw(texts)},
            {"role": "assistant", "content": draw(texts), "trained": flag},
        )
    ]


def slow(family: str, rows: list[list[dict[str, object]]]) -> list[tuple[list[int], list[bool]]]:
    examples = [encode_messages(tiny_tokenizer(family), row) for row in rows]
    return [(example.input_ids, example.trained) for example in examples]


@pytest.mark.parametrize("family", FAST)
@given(rows=st.lists(conversations(), min_size=1, max_size=4))
def test_fast_rows_are_the_slow_rows(family: str, rows: list[list[dict[str, object]]]) -> None:
    fast = ENCODERS[family].encode(rows)
    expected = slow(family, rows)
    assert [row or other for row, other in zip(fast, expected, strict=True)] == expected


@pytest.mark.parametrize("family", FAST)
@pytest.mark.parametrize(
    "answer",
    [
        {"content": "Hello you."},
        {"content": "D\u00e9j\u00e0 vu, \u6f22\u5b57 \U0001f389."},
        {"content": "a", "trained": True},
        {"content": "a", "weight": 1},
    ],
)
def test_an_ordinary_row_is_a_fast_row(family: str, answer: dict[str, object]) -> None:
    row = [CHAT[0], {"role": "assistant", **answer}]
    assert ENCODERS[family].encode([row]) == slow(family, [row])


def test_what_the_tokenizer_puts_around_plain_text_stays_out() -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 0), ("<|im_end|>", 1)]
    )
    assert BatchEncoder(tokenizer).encode([CHAT]) == slow("chatml", [CHAT])


@pytest.mark.parametrize(
    ("family", "content"),
    [("llama3", " a"), ("gemma", "a\n"), ("qwen3", "<think>\na\n</think>\n\nb"), ("chatml", "\ud800")],
)
def test_a_content_that_the_shape_excludes_is_left_to_the_slow_way(family: str, content: str) -> None:
    assert ENCODERS[family].encode([[CHAT[0], {"role": "assistant", "content": content}]]) == [None]


@pytest.mark.parametrize("kind", ["two ends", "next opens"])
@given(rows=st.lists(conversations(), min_size=1, max_size=3))
def test_answers_that_end_in_other_ways_are_the_slow_rows(
    kind: str, rows: list[list[dict[str, object]]]
) -> None:
    fast = BatchEncoder(KINDS[kind]).encode(rows)
    expected = [encode_messages(KINDS[kind], row) for row in rows]
    slow_rows = [(example.input_ids, example.trained) for example in expected]
    assert [row or other for row, other in zip(fast, slow_rows, strict=True)] == slow_rows


@pytest.mark.parametrize("kind", ["two ends", "next opens"])
def test_answers_that_end_in_other_ways_take_the_fast_way(kind: str) -> None:
    assert BatchEncoder(KINDS[kind]).encode([CHAT]) != [None]


KINDS = {
    "two ends": templated(TWO_ENDS, eos="<|end_of_turn|>"),
    "next opens": templated(NEXT_OPENS, stops=("<|user|>",)),
}
ENCODERS = {family: BatchEncoder(tiny_tokenizer(family)) for family in FAST}


def test_blocks_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.core.encoding.batch_encoding._BLOCK_ROWS", 2)
    rows = [[CHAT[0], {"role": "assistant", "content": f"Answer {number}"}] for number in range(5)]
    assert BatchEncoder(tiny_tokenizer("chatml")).encode(rows) == slow("chatml", rows)


def test_no_rows_give_none() -> None:
    assert BatchEncoder(tiny_tokenizer("chatml")).encode([]) == []


@pytest.mark.parametrize(
    "row",
    [
        [CHAT[0], {**CHAT[1], "tool_calls": []}],
        [{**CHAT[0], "name": "Ann"}, CHAT[1]],
        [CHAT[0], {"role": "assistant", "content": None}],
        [CHAT[0], {"role": "assistant"}],
        [{"content": "a"}, CHAT[1]],
        [{"role": ["user"], "content": "a"}],
        [{"role": "user", "content": [{"type": "text", "text": "a"}]}, CHAT[1]],
        [CHAT[0]],
        [CHAT[0], {**CHAT[1], "trained": False}],
        [],
    ],
)
def test_a_row_that_is_not_plain_is_left_to_the_slow_way(row: list[dict[str, object]]) -> None:
    plain, other, again = BatchEncoder(tiny_tokenizer("chatml")).encode([CHAT, row, CHAT])
    assert [plain, other, again] == [*slow("chatml", [CHAT]), None, *slow("chatml", [CHAT])]


def test_a_template_without_a_shape_is_left_to_the_slow_way() -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = tokenizer.chat_template.replace("message['content']", "message['content'][:]")
    assert BatchEncoder(tokenizer).encode([CHAT]) == [None]


def test_a_tokenizer_without_a_word_cache_is_left_to_the_slow_way() -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.add_tokens([AddedToken("two words")])
    assert BatchEncoder(tokenizer).encode([CHAT]) == [None]


@pytest.mark.parametrize("token", ["a<|im_", "<|im_end|>b", "x<|im_end|>y", "Hello<"])
def test_an_added_token_that_reaches_into_a_special_one_is_left_to_the_slow_way(token: str) -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.add_tokens([AddedToken(token, normalized=False)])
    assert BatchEncoder(tokenizer).encode([CHAT]) == [None]


def test_a_harmless_added_token_stays_fast() -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    row = [CHAT[0], {"role": "assistant", "content": "<think> a<think>b"}]
    example = encode_messages(tokenizer, row)
    assert BatchEncoder(tokenizer).encode([row]) == [(example.input_ids, example.trained)]


# an opening that reaches back before a special token, and an end that does not follow its answer
REACHING = (
    "{% for m in messages %}{{ m.content + '<|im_end|>' }}"
    "{% if not loop.last %}{{ '<|im_start|>ready' }}{% endif %}{% endfor %}"
)
TRAILING = "{% for m in messages %}{{ m.content + '\n\n' }}{% endfor %}{{ '<|im_end|>' }}"


@pytest.mark.parametrize("template", [REACHING, TRAILING])
def test_odd_shapes_agree_with_the_slow_way(template: str) -> None:
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.chat_template = template
    example = encode_messages(tokenizer, CHAT)
    assert BatchEncoder(tokenizer).encode([CHAT]) in ([None], [(example.input_ids, example.trained)])
