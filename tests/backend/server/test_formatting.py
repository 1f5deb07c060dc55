"""Tokens as responses of OpenAI's API: backend/server/formatting.py. Integration tests read them with its client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.inference.decoding import NewToken
from backend.inference.model_source import find_model
from backend.inference.prompting import PromptRenderer
from backend.server.formatting import ChatFormat, CompletionFormat, usage
from backend.server.jobs import TokenDelta
from tests.tiny import tiny_model

USAGE = usage(2, 3)


@pytest.fixture(scope="module")
def renderer(tiny_folder: Path) -> PromptRenderer:
    return PromptRenderer(find_model(tiny_folder), tiny_model(vocab_size=400))


def _deltas(renderer: PromptRenderer, text: str) -> list[TokenDelta]:
    """The tokens of ``text`` and an end token, as one answer."""
    ids = renderer.tokenizer.encode(text, add_special_tokens=False)
    own = [
        TokenDelta(0, renderer.tokenizer.decode([i]), NewToken(0, i, -0.5, "", ((i, -0.5),)), "") for i in ids
    ]
    return [*own, TokenDelta(0, "", NewToken(0, min(renderer.stop_ids), -0.1, "stop"), "stop")]


def _logprobs(response_format: Any, deltas: list[TokenDelta]) -> Any:
    """The log-probabilities of one answer."""
    return response_format.response([deltas], USAGE)["choices"][0]["logprobs"]


@pytest.mark.parametrize("kind", [ChatFormat, CompletionFormat])
def test_a_stream_adds_up_to_the_whole(renderer: PromptRenderer, kind: Any) -> None:
    deltas = _deltas(renderer, "hello")
    (whole,) = kind("m", renderer, logprobs=True).response([deltas], USAGE)["choices"]
    streamed = kind("m", renderer, logprobs=True)
    parts = [chunk["choices"][0] for chunk in map(streamed.delta_chunk, deltas) if chunk]

    texts = [part.get("text", part.get("delta", {}).get("content")) for part in parts]
    assert "".join(texts) == whole.get("text", whole.get("message", {}).get("content")) == "hello"
    (last,) = streamed.last_chunk(0, deltas[-1].finish)["choices"]
    assert last["finish_reason"] == whole["finish_reason"] == "stop"
    assert {part["finish_reason"] for part in parts} == {None}


@pytest.mark.parametrize("kind", [ChatFormat, CompletionFormat])
def test_the_end_token_makes_no_chunk(renderer: PromptRenderer, kind: Any) -> None:
    assert kind("m", renderer, logprobs=True).delta_chunk(_deltas(renderer, "a")[-1]) is None


def test_every_response_has_its_head(renderer: PromptRenderer) -> None:
    chat = ChatFormat("m", renderer, logprobs=False)
    text = CompletionFormat("m", renderer, logprobs=False)
    whole, chunk = chat.response([], USAGE), chat.first_chunk(0)

    assert (whole["object"], chunk["object"]) == ("chat.completion", "chat.completion.chunk")
    assert (whole["id"], whole["created"], whole["model"]) == (chunk["id"], chunk["created"], chunk["model"])
    assert whole["id"].startswith("chatcmpl-")
    assert text.response([], USAGE)["object"] == text.last_chunk(0, "stop")["object"] == "text_completion"
    assert text.first_chunk(0) is None


@pytest.mark.parametrize("kind", [ChatFormat, CompletionFormat])
@pytest.mark.parametrize(("with_usage", "expected"), [(True, {"usage": None}), (False, {})])
def test_a_chunk_has_a_place_for_usage_where_it_was_asked_for(
    renderer: PromptRenderer, kind: Any, with_usage: bool, expected: dict[str, None]
) -> None:
    chunk = kind("m", renderer, logprobs=False, with_usage=with_usage).last_chunk(0, "stop")

    assert {name: value for name, value in chunk.items() if name == "usage"} == expected


def test_a_prompt_is_echoed_once(renderer: PromptRenderer) -> None:
    echoed = CompletionFormat("m", renderer, logprobs=False, echoes=["hi ", "ho "])
    deltas = [[*_deltas(renderer, "hello")]] * 2

    assert [each["text"] for each in echoed.response(deltas, USAGE)["choices"]] == ["hi hello", "ho hello"]
    opened = [chunk for chunk in map(echoed.first_chunk, range(2)) if chunk]
    assert [chunk["choices"][0]["text"] for chunk in opened] == ["hi ", "ho "]


def test_the_token_that_came_is_among_its_alternatives(renderer: PromptRenderer) -> None:
    likely = [TokenDelta(0, "a", NewToken(0, 70, -3.0, "", ((71, -0.5),)), "length")]
    top = _logprobs(CompletionFormat("m", renderer, logprobs=True), likely)["top_logprobs"]

    assert sorted(top[0].values()) == [-3.0, -0.5]


@pytest.mark.parametrize("text", ["🙂", "東京", "naïve 👨‍👩‍👧 ok", "a"])
def test_the_bytes_of_the_tokens_are_those_of_the_text_though_characters_are_split(
    renderer: PromptRenderer, text: str
) -> None:
    likely = _logprobs(ChatFormat("m", renderer, logprobs=True), _deltas(renderer, text))

    own = [byte for each in likely["content"] for byte in each["bytes"]]
    alternatives = [byte for each in likely["content"] for byte in each["top_logprobs"][0]["bytes"]]
    assert bytes(own).decode() == bytes(alternatives).decode() == text


def test_a_special_token_has_no_bytes(renderer: PromptRenderer) -> None:
    start = renderer.tokenizer.convert_tokens_to_ids("<|im_start|>")
    delta = TokenDelta(0, "", NewToken(0, start, -0.5, ""), "")

    (likely,) = _logprobs(ChatFormat("m", renderer, logprobs=True), [delta])["content"]

    assert (likely["token"], likely["bytes"]) == ("<|im_start|>", None)


@pytest.mark.parametrize("text", ["one two three", "naïve 🙂 ok", "東京 x"])
def test_text_offsets_run_on_through_a_stream(renderer: PromptRenderer, text: str) -> None:
    parts = _deltas(renderer, text)[:-1]
    whole = _logprobs(CompletionFormat("m", renderer, logprobs=True, echoes=["the prompt"]), parts)
    streamed = CompletionFormat("m", renderer, logprobs=True, echoes=["the prompt"])
    chunks: list[Any] = list(map(streamed.delta_chunk, parts))

    offsets = [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks]
    assert [offset for each in offsets for offset in each] == whole["text_offset"]
    before = [
        renderer.tokenizer.decode([part.token.token_id for part in parts[:end]]) for end in range(len(parts))
    ]
    assert whole["text_offset"] == [len("the prompt") + len(each.rstrip("\ufffd")) for each in before]


def test_every_answer_counts_its_own_offsets(renderer: PromptRenderer) -> None:
    streamed = CompletionFormat("m", renderer, logprobs=True)
    tokens = [delta.token for delta in _deltas(renderer, "ab")[:-1]]

    chunks: list[Any] = [
        streamed.delta_chunk(TokenDelta(choice, "x", token, "")) for choice in (0, 1) for token in tokens
    ]

    offsets = [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks]
    assert offsets == [[0], [1], [0], [1]]


def test_parts_of_characters_do_not_fall_together(renderer: PromptRenderer) -> None:
    parts = [delta.token.token_id for delta in _deltas(renderer, "🙂")[:-1]]
    top = tuple((token_id, -1.0 - place) for place, token_id in enumerate(dict.fromkeys(parts)))
    likely = [TokenDelta(0, "", NewToken(0, parts[0], -1.0, "", top), "")]

    (found,) = _logprobs(CompletionFormat("m", renderer, logprobs=True), likely)["top_logprobs"]

    assert len(found) == len(top)
    assert next(iter(found)).startswith("bytes:\\xf0")


def test_usage_is_summed() -> None:
    assert usage(2, 3) == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
