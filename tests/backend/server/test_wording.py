"""OpenAI's words for what came: backend/server/wording.py. The openai client reads them in the integration tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.inference.decoding import NewToken
from backend.inference.model_source import find_model
from backend.inference.prompting import PromptRenderer
from backend.server.jobs import Piece
from backend.server.wording import ChatWords, TextWords, usage
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def renderer(tiny_folder: Path) -> PromptRenderer:
    return PromptRenderer(find_model(tiny_folder), tiny_model(vocab_size=400))


def _pieces(renderer: PromptRenderer, text: str) -> list[Piece]:
    ids = renderer.tokenizer.encode(text, add_special_tokens=False)
    said = [Piece(0, renderer.tokenizer.decode([i]), NewToken(0, i, -0.5, "", ((i, -0.5),)), "") for i in ids]
    return [*said, Piece(0, "", NewToken(0, min(renderer.stop_ids), -0.1, "stop"), "stop")]


@pytest.mark.parametrize("words", [ChatWords, TextWords])
def test_a_stream_adds_up_to_the_whole(renderer: PromptRenderer, words: Any) -> None:
    spoken = words("m", renderer, logprobs=True)
    parts = _pieces(renderer, "hello")
    whole = spoken.choice(0, parts)
    said = [choice for choice in map(spoken.said, parts) if choice]

    texts = [choice.get("text", choice.get("delta", {}).get("content")) for choice in said]
    assert "".join(texts) == whole.get("text", whole.get("message", {}).get("content")) == "hello"
    assert (
        spoken.ended(parts[-1].choice, parts[-1].finish)["finish_reason"] == whole["finish_reason"] == "stop"
    )
    assert {choice["finish_reason"] for choice in said} == {None}


def test_the_end_token_says_nothing(renderer: PromptRenderer) -> None:
    last = _pieces(renderer, "a")[-1]

    assert ChatWords("m", renderer, logprobs=True).said(last) is None
    assert TextWords("m", renderer, logprobs=True).said(last) is None


def test_heads(renderer: PromptRenderer) -> None:
    chat, text = ChatWords("m", renderer, logprobs=False), TextWords("m", renderer, logprobs=False)

    assert chat.head()["object"] == "chat.completion"
    assert chat.head(chunk=True) == {**chat.head(), "object": "chat.completion.chunk"}
    assert text.head() == text.head(chunk=True)
    assert chat.head()["id"].startswith("chatcmpl-")
    assert text.opening(0) is None


def test_a_prompt_is_echoed_once(renderer: PromptRenderer) -> None:
    echoed = TextWords("m", renderer, logprobs=False, echoes=["hi ", "ho "])

    assert echoed.choice(1, _pieces(renderer, "hello"))["text"] == "ho hello"
    assert [echoed.opening(index)["text"] for index in range(2)] == ["hi ", "ho "]  # type: ignore[index]


def test_the_token_that_came_is_among_its_alternatives(renderer: PromptRenderer) -> None:
    likely = [Piece(0, "a", NewToken(0, 70, -3.0, "", ((71, -0.5),)), "length")]
    top = TextWords("m", renderer, logprobs=True).choice(0, likely)["logprobs"]["top_logprobs"]

    assert sorted(top[0].values()) == [-3.0, -0.5]


@pytest.mark.parametrize("text", ["🙂", "東京", "naïve 👨‍👩‍👧 ok", "a"])
def test_the_bytes_of_the_tokens_are_those_of_the_text_though_characters_are_split(
    renderer: PromptRenderer, text: str
) -> None:
    likely = ChatWords("m", renderer, logprobs=True).choice(0, _pieces(renderer, text))["logprobs"]

    own = [byte for each in likely["content"] for byte in each["bytes"]]
    alternatives = [byte for each in likely["content"] for byte in each["top_logprobs"][0]["bytes"]]
    assert bytes(own).decode() == bytes(alternatives).decode() == text


def test_a_special_token_has_no_bytes(renderer: PromptRenderer) -> None:
    start = renderer.tokenizer.convert_tokens_to_ids("<|im_start|>")
    piece = Piece(0, "", NewToken(0, start, -0.5, ""), "")

    (likely,) = ChatWords("m", renderer, logprobs=True).choice(0, [piece])["logprobs"]["content"]

    assert (likely["token"], likely["bytes"]) == ("<|im_start|>", None)


@pytest.mark.parametrize("text", ["one two three", "naïve 🙂 ok", "東京 x"])
def test_text_offsets_run_on_through_a_stream(renderer: PromptRenderer, text: str) -> None:
    parts = [piece for piece in _pieces(renderer, text) for piece in [piece] if piece.finish != "stop"]
    whole = TextWords("m", renderer, logprobs=True, echoes=["the prompt"]).choice(0, parts)["logprobs"]
    streamed = TextWords("m", renderer, logprobs=True, echoes=["the prompt"])
    said = [streamed.choice(0, [part])["logprobs"] for part in parts]

    assert [offset for each in said for offset in each["text_offset"]] == whole["text_offset"]
    before = [
        renderer.tokenizer.decode([part.token.token_id for part in parts[:end]]) for end in range(len(parts))
    ]
    assert whole["text_offset"] == [len("the prompt") + len(each.rstrip("\ufffd")) for each in before]


def test_every_answer_counts_its_own_offsets(renderer: PromptRenderer) -> None:
    words = TextWords("m", renderer, logprobs=True)
    first, second = (piece for piece in _pieces(renderer, "ab") if not piece.finish)

    said = [words.said(Piece(choice, "x", part.token, "")) for choice in (0, 1) for part in (first, second)]

    assert [choice["logprobs"]["text_offset"] for choice in said if choice] == [[0], [1], [0], [1]]


def test_parts_of_characters_do_not_fall_together(renderer: PromptRenderer) -> None:
    parts = [piece.token.token_id for piece in _pieces(renderer, "🙂")][:-1]
    top = tuple((token_id, -1.0 - place) for place, token_id in enumerate(dict.fromkeys(parts)))
    likely = [Piece(0, "", NewToken(0, parts[0], -1.0, "", top), "")]

    (found,) = TextWords("m", renderer, logprobs=True).choice(0, likely)["logprobs"]["top_logprobs"]

    assert len(found) == len(top)
    assert next(iter(found)).startswith("bytes:\\xf0")


def test_what_it_cost() -> None:
    assert usage(2, 3) == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
