"""The generated tokens as the responses of OpenAI's API, whole or in chunks; one class for each endpoint."""

from __future__ import annotations

import codecs
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar, Protocol

from typing_extensions import TypedDict

from backend.core.vocabulary import UNFINISHED, token_bytes, token_text
from backend.inference.decoding import NewToken
from backend.inference.prompting import PromptRenderer
from backend.inference.token_view import finite
from backend.server.jobs import TokenDelta
from backend.server.responses import (
    AssistantMessage,
    ChatAlternative,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatLogprobs,
    ChatTokenLogprob,
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionChunkChoice,
    CompletionLogprobs,
    ToolCallDelta,
    Usage,
)
from backend.server.tool_calls import CallReader


class ResponseFormat(Protocol):
    """The format of one endpoint's responses."""

    def response(self, answers: Sequence[Sequence[TokenDelta]], usage: Usage) -> ChatCompletion | Completion:
        """Return the whole response."""

    def first_chunk(self, index: int) -> ChatCompletionChunk | CompletionChunk | None:
        """Return the chunk that opens answer ``index`` of a stream, if there is one."""

    def delta_chunk(self, delta: TokenDelta) -> ChatCompletionChunk | CompletionChunk | None:
        """Return the chunk for one token; None where it adds nothing that is shown."""

    def last_chunk(self, index: int, finish: str) -> ChatCompletionChunk | CompletionChunk:
        """Return the chunk with which answer ``index`` ends."""

    def usage_chunk(self, usage: Usage) -> ChatCompletionChunk | CompletionChunk:
        """Return the chunk with which a stream ends that was asked for its usage."""


class _Head(TypedDict):
    id: str
    created: int
    model: str


class _Format:
    """The parts that both formats share: the head of a response, and the spelling of tokens."""

    prefix: ClassVar[str]

    def __init__(self, model: str, renderer: PromptRenderer, *, with_usage: bool) -> None:
        self._renderer = renderer
        self._with_usage = with_usage
        self._started = defaultdict[int, bool](bool)
        self._head: _Head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def _is_first(self, choice: int) -> bool:
        """Return whether the token to be put now is the first of its answer, and note that it was put."""
        first, self._started[choice] = not self._started[choice], True
        return first

    def _spelled(self, token_id: int, *, first: bool) -> tuple[str, list[int] | None]:
        """Return a token's text and bytes; those of all tokens of an answer make its text and bytes."""
        tokenizer = self._renderer.tokenizer
        return token_text(tokenizer, token_id, first=first), token_bytes(tokenizer, token_id, first=first)


class ChatFormat(_Format):
    """``/v1/chat/completions``."""

    prefix = "chatcmpl"

    def __init__(
        self,
        model: str,
        renderer: PromptRenderer,
        *,
        logprobs: bool,
        tools: bool = False,
        with_usage: bool = False,
    ) -> None:
        super().__init__(model, renderer, with_usage=with_usage)
        self._logprobs = logprobs
        self._readers: defaultdict[int, CallReader] | None = defaultdict(CallReader) if tools else None

    def response(self, answers: Sequence[Sequence[TokenDelta]], usage: Usage) -> ChatCompletion:
        """Return the whole response."""
        choices = [self._choice(index, deltas) for index, deltas in enumerate(answers)]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def _choice(self, index: int, deltas: Sequence[TokenDelta]) -> ChatChoice:
        text, calls = self._read(index, "".join(delta.text for delta in deltas), last=True)
        message: AssistantMessage = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message["content"] = text or None
            message["tool_calls"] = [
                {"id": call["id"], "type": call["type"], "function": call["function"]} for call in calls
            ]
        return {
            "index": index,
            "message": message,
            "finish_reason": self._finish_reason(index, deltas[-1].finish),
            "logprobs": self._token_logprobs(deltas),
        }

    def first_chunk(self, index: int) -> ChatCompletionChunk:
        """Return the chunk that names the role."""
        return self._chunk(_chat_part(index, {"role": "assistant", "content": ""}))

    def delta_chunk(self, delta: TokenDelta) -> ChatCompletionChunk | None:
        """Return the chunk for one token; None where it adds nothing that is shown."""
        logprobs = self._token_logprobs([delta])
        text, calls = self._read(delta.choice, delta.text, last=bool(delta.finish))
        if not text and not calls and (logprobs is None or not logprobs["content"]):
            return None
        added: ChatDelta = {"content": text, "tool_calls": calls} if calls else {"content": text}
        return self._chunk(_chat_part(delta.choice, added, logprobs))

    def last_chunk(self, index: int, finish: str) -> ChatCompletionChunk:
        """Return the chunk with which answer ``index`` ends."""
        return self._chunk(_chat_part(index, {}, None, self._finish_reason(index, finish)))

    def usage_chunk(self, usage: Usage) -> ChatCompletionChunk:
        """Return the chunk with which a stream ends that was asked for its usage."""
        return {**self._head, "object": "chat.completion.chunk", "usage": usage, "choices": []}

    def _chunk(self, choice: ChatChunkChoice) -> ChatCompletionChunk:
        if self._with_usage:
            return {**self._head, "object": "chat.completion.chunk", "usage": None, "choices": [choice]}
        return {
            "id": self._head["id"],
            "created": self._head["created"],
            "model": self._head["model"],
            "object": "chat.completion.chunk",
            "choices": [choice],
        }

    def _read(self, choice: int, text: str, *, last: bool) -> tuple[str, list[ToolCallDelta]]:
        """Return text and tool calls; all is text where the model has no tools to call."""
        return (text, []) if self._readers is None else self._readers[choice].push(text, last=last)

    def _finish_reason(self, choice: int, finish: str) -> str:
        called = self._readers is not None and self._readers[choice].calls
        return "tool_calls" if called and finish == "stop" else finish

    def _token_logprobs(self, deltas: Sequence[TokenDelta]) -> ChatLogprobs | None:
        if not self._logprobs:
            return None
        content: list[ChatTokenLogprob] = []
        for delta in deltas:
            token = delta.token
            if token.finish == "stop":  # the end token is no part of the answer
                continue
            first = self._is_first(delta.choice)
            own = self._alternative(token.token_id, token.logprob, first=first)
            top = [self._alternative(*each, first=first) for each in token.top]
            content.append({**own, "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _alternative(self, token_id: int, logprob: float, *, first: bool) -> ChatAlternative:
        text, own = self._spelled(token_id, first=first)
        return {"token": text, "logprob": finite(logprob), "bytes": own}


class CompletionFormat(_Format):
    """``/v1/completions``; ``echoes`` are the texts that the answers begin with: the prompt of each, or nothing."""

    prefix = "cmpl"

    def __init__(
        self,
        model: str,
        renderer: PromptRenderer,
        *,
        logprobs: bool,
        echoes: Sequence[str] = (),
        with_usage: bool = False,
    ) -> None:
        super().__init__(model, renderer, with_usage=with_usage)
        self._logprobs = logprobs
        self._echoes = echoes
        self._offsets = defaultdict[int, int](int, {index: len(text) for index, text in enumerate(echoes)})
        self._decoders = defaultdict[int, codecs.IncrementalDecoder](
            lambda: codecs.getincrementaldecoder("utf-8")("replace")
        )

    def response(self, answers: Sequence[Sequence[TokenDelta]], usage: Usage) -> Completion:
        """Return the whole response."""
        choices = [self._choice(index, deltas) for index, deltas in enumerate(answers)]
        return {**self._head, "object": "text_completion", "choices": choices, "usage": usage}

    def _choice(self, index: int, deltas: Sequence[TokenDelta]) -> CompletionChoice:
        finish = deltas[-1].finish if deltas else "length"  # max_tokens may be 0
        text = "".join([*self._echoes[index : index + 1], *(delta.text for delta in deltas)])
        logprobs = self._token_logprobs(deltas)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def first_chunk(self, index: int) -> CompletionChunk | None:
        """Return the chunk that repeats the prompt, where that was asked for."""
        return self._chunk(_text_part(index, self._echoes[index])) if self._echoes else None

    def delta_chunk(self, delta: TokenDelta) -> CompletionChunk | None:
        """Return the chunk for one token; None where it adds nothing that is shown."""
        logprobs = self._token_logprobs([delta])
        if not delta.text and (logprobs is None or not logprobs["tokens"]):
            return None
        return self._chunk(_text_part(delta.choice, delta.text, logprobs))

    def last_chunk(self, index: int, finish: str) -> CompletionChunk:
        """Return the chunk with which answer ``index`` ends."""
        return self._chunk(_text_part(index, "", None, finish))

    def usage_chunk(self, usage: Usage) -> CompletionChunk:
        """Return the chunk with which a stream ends that was asked for its usage."""
        return {**self._head, "object": "text_completion", "usage": usage, "choices": []}

    def _chunk(self, choice: CompletionChunkChoice) -> CompletionChunk:
        if self._with_usage:
            return {**self._head, "object": "text_completion", "usage": None, "choices": [choice]}
        return {
            "id": self._head["id"],
            "created": self._head["created"],
            "model": self._head["model"],
            "object": "text_completion",
            "choices": [choice],
        }

    def _token_logprobs(self, deltas: Sequence[TokenDelta]) -> CompletionLogprobs | None:
        if not self._logprobs:
            return None
        found: CompletionLogprobs = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for delta in deltas:
            token = delta.token
            if token.finish == "stop":  # the end token is no part of the answer
                continue
            first = self._is_first(delta.choice)
            found["tokens"].append(self._key(token.token_id, first=first))
            found["token_logprobs"].append(finite(token.logprob))
            found["top_logprobs"].append(self._top(token, first=first))
            found["text_offset"].append(self._offset(delta.choice, token.token_id, first=first))
        return found

    def _key(self, token_id: int, *, first: bool) -> str:
        """Return a token as OpenAI's completions spell it: its text, or the bytes of a part of a character."""
        text, own = self._spelled(token_id, first=first)
        if UNFINISHED not in text or own is None:
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in own)

    def _top(self, token: NewToken, *, first: bool) -> dict[str, float]:
        """Return the token that came and the likeliest; where two read the same, the second is named by its id."""
        found: dict[str, float] = {}
        for token_id, value in ((token.token_id, token.logprob), *token.top):
            text = self._key(token_id, first=first)
            same = token_id == token.token_id
            found.setdefault(text if same or text not in found else f"token_id:{token_id}", finite(value))
        return found

    def _offset(self, choice: int, token_id: int, *, first: bool) -> int:
        """Return where a token begins in the answer, in characters; it may stand in the middle of one."""
        before = self._offsets[choice]
        _, own = self._spelled(token_id, first=first)  # a special token is no part of the text
        self._offsets[choice] += len(self._decoders[choice].decode(bytes(own or ())))
        return before


def _chat_part(
    index: int, delta: ChatDelta, logprobs: ChatLogprobs | None = None, finish: str | None = None
) -> ChatChunkChoice:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _text_part(
    index: int, text: str, logprobs: CompletionLogprobs | None = None, finish: str | None = None
) -> CompletionChunkChoice:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def usage(prompt_tokens: int, completion_tokens: int) -> Usage:
    """Return the tokens read and generated; end tokens count."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
