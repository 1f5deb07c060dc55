"""OpenAI's words for what came: backend/server/wording.py. The openai client reads them in the integration tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.core.generation import NewToken
from backend.model_source import find_model
from backend.server.jobs import Piece
from backend.server.wording import ChatWords, TextWords, usage
from backend.voice import Voice
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def voice(tiny_folder: Path) -> Voice:
    return Voice(find_model(tiny_folder), tiny_model(vocab_size=400))


def _pieces(voice: Voice, text: str) -> list[Piece]:
    ids = voice.tokenizer.encode(text, add_special_tokens=False)
    said = [Piece(0, voice.tokenizer.decode([i]), NewToken(0, i, -0.5, "", ((i, -0.5),)), "") for i in ids]
    return [*said, Piece(0, "", NewToken(0, min(voice.stop_ids), -0.1, "stop"), "stop")]


@pytest.mark.parametrize("words", [ChatWords, TextWords])
def test_a_stream_adds_up_to_the_whole(voice: Voice, words: Any) -> None:
    spoken = words("m", voice, logprobs=True)
    parts = _pieces(voice, "hello")
    whole = spoken.choice(0, parts)
    said = [choice for choice in map(spoken.said, parts) if choice]

    texts = [choice.get("text", choice.get("delta", {}).get("content")) for choice in said]
    assert "".join(texts) == whole.get("text", whole.get("message", {}).get("content")) == "hello"
    assert spoken.ended(parts[-1])["finish_reason"] == whole["finish_reason"] == "stop"
    assert {choice["finish_reason"] for choice in said} == {None}


def test_the_end_token_says_nothing(voice: Voice) -> None:
    last = _pieces(voice, "a")[-1]

    assert ChatWords("m", voice, logprobs=True).said(last) is None
    assert TextWords("m", voice, logprobs=True).said(last) is None


def test_heads(voice: Voice) -> None:
    chat, text = ChatWords("m", voice, logprobs=False), TextWords("m", voice, logprobs=False)

    assert chat.head()["object"] == "chat.completion"
    assert chat.head(chunk=True) == {**chat.head(), "object": "chat.completion.chunk"}
    assert text.head() == text.head(chunk=True)
    assert chat.head()["id"].startswith("chatcmpl-")
    assert text.opening(0) is None


def test_a_prompt_is_echoed_once(voice: Voice) -> None:
    echoed = TextWords("m", voice, logprobs=False, echoes=["hi ", "ho "])

    assert echoed.choice(1, _pieces(voice, "hello"))["text"] == "ho hello"
    assert [echoed.opening(index)["text"] for index in range(2)] == ["hi ", "ho "]  # type: ignore[index]


def test_the_token_that_came_is_among_its_alternatives(voice: Voice) -> None:
    likely = [Piece(0, "a", NewToken(0, 70, -3.0, "", ((71, -0.5),)), "length")]
    top = TextWords("m", voice, logprobs=True).choice(0, likely)["logprobs"]["top_logprobs"]

    assert sorted(top[0].values()) == [-3.0, -0.5]


def test_a_part_of_a_character_has_no_bytes(voice: Voice) -> None:
    parts = _pieces(voice, "é")
    content = ChatWords("m", voice, logprobs=True).choice(0, parts)["logprobs"]["content"]

    assert [each["bytes"] for each in content] == [None, None]


def test_what_it_cost() -> None:
    assert usage(2, 3) == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
