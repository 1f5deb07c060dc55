"""A file of prompts: app/rows_to_ask.py."""

from __future__ import annotations

import pytest

from app import rows_to_ask
from app.rows_to_ask import read_prompts
from backend.errors import InferenceError

ASKED = [[{"role": "user", "content": "one"}], [{"role": "user", "content": "two"}]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", b"one\n\ntwo\n"),
        ("p.txt", b"\xef\xbb\xbfone\ntwo"),
        ("p.jsonl", b'{"prompt": "one"}\n\n{"prompt": "two", "completion": "x"}\n'),
        (
            "P.JSONL",
            (
                b'{"messages": [{"role": "user", "content": "one"}]}\n'
                b'{"messages": [{"role": "user", "content": "two"}, {"role": "assistant", "content": "x"}]}\n'
            ),
        ),
        ("p.csv", b'id,prompt\n1,one\n2,"two"\n3,\n'),
    ],
)
def test_every_form_asks_the_same(name: str, content: bytes) -> None:
    assert read_prompts(name, content) == ASKED


def test_a_line_ends_where_the_back_end_ends_it() -> None:
    line = '{"prompt": "one\u2028two\x85three"}'
    assert read_prompts("p.jsonl", f"{line}\r\n{line}\n".encode())[1][0]["content"] == "one\u2028two\x85three"
    assert len(read_prompts("p.txt", "one\u2028two\x0cthree\rfour".encode())) == 2


def test_a_conversation_keeps_its_turns() -> None:
    line = b'{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}'
    assert [each["role"] for each in read_prompts("p.jsonl", line)[0]] == ["system", "user"]


@pytest.mark.parametrize("prompt", [b'"u"', b'[{"role": "user", "content": "u"}]'])
def test_of_pairs_of_answers_the_prompt_is_asked(prompt: bytes) -> None:
    line = b'{"prompt": %b, "chosen": "a", "rejected": "b"}' % prompt
    assert read_prompts("p.jsonl", line) == [[{"role": "user", "content": "u"}]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", b"", "no prompt"),
        ("p.txt", b"\xff\xfe", "not UTF-8"),
        ("p.csv", b"question\na\n", "no column called prompt"),
        ("p.jsonl", b'{"prompt": "a"}\n{broken', "p.jsonl:2"),
        ("p.jsonl", b"3", "p.jsonl:1"),
        ("p.jsonl", b'{"text": "a"}', "p.jsonl:1"),
        ("p.jsonl", b'{"messages": []}', "p.jsonl:1"),
    ],
)
def test_what_cannot_be_asked_is_named(name: str, content: bytes, said: str) -> None:
    with pytest.raises(InferenceError, match=said):
        read_prompts(name, content)


def test_there_is_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_to_ask, "MAX_ROWS", 1)
    with pytest.raises(InferenceError, match="2 prompts"):
        read_prompts("p.txt", b"one\ntwo")
