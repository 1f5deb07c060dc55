"""What came from the engine in the words of OpenAI's clients: one class an endpoint. No request is read here."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from backend.server.jobs import Piece
from backend.server.tool_calls import CallReader
from backend.token_look import finite, token_text
from backend.voice import Voice


class Words(Protocol):
    """How one endpoint puts an answer."""

    def head(self, *, chunk: bool = False) -> dict[str, Any]:
        """What every answer and every chunk begins with."""

    def choice(self, index: int, parts: Sequence[Piece]) -> dict[str, Any]:
        """One whole answer."""

    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice of a stream's first chunk, if there is one."""

    def said(self, piece: Piece) -> dict[str, Any] | None:
        """The choice of a chunk with what a step added; None where that is nothing."""

    def ended(self, piece: Piece) -> dict[str, Any]:
        """The choice of the chunk that says how an answer ended."""


class _Endpoint:
    prefix: ClassVar[str]
    whole: ClassVar[str]
    chunked: ClassVar[str]

    def __init__(self, model: str, voice: Voice) -> None:
        self._voice = voice
        self._same = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def head(self, *, chunk: bool = False) -> dict[str, Any]:
        return {**self._same, "object": self.chunked if chunk else self.whole}


class ChatWords(_Endpoint):
    """``/v1/chat/completions``."""

    prefix, whole, chunked = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, model: str, voice: Voice, *, logprobs: bool, tools: bool = False) -> None:
        super().__init__(model, voice)
        self._logprobs = logprobs
        self._readers: defaultdict[int, CallReader] | None = defaultdict(CallReader) if tools else None

    def choice(self, index: int, parts: Sequence[Piece]) -> dict[str, Any]:
        """One whole answer."""
        text, calls = self._read(index, "".join(part.text for part in parts), last=True)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            called = [{key: call[key] for key in ("id", "type", "function")} for call in calls]
            message |= {"content": text or None, "tool_calls": called}
        return {
            "index": index,
            "message": message,
            "finish_reason": self._finish(parts[-1]),
            "logprobs": self._likely(parts),
        }

    def opening(self, index: int) -> dict[str, Any]:
        """Who speaks."""
        return _delta(index, {"role": "assistant", "content": ""})

    def said(self, piece: Piece) -> dict[str, Any] | None:
        """What a step added."""
        logprobs = self._likely([piece])
        text, calls = self._read(piece.choice, piece.text, last=bool(piece.finish))
        if not text and not calls and (logprobs is None or not logprobs["content"]):
            return None
        said: dict[str, Any] = {"tool_calls": calls} if calls else {}
        return {**_delta(piece.choice, {"content": text, **said}), "logprobs": logprobs}

    def ended(self, piece: Piece) -> dict[str, Any]:
        """How it ended."""
        return {**_delta(piece.choice, {}), "finish_reason": self._finish(piece)}

    def _read(self, choice: int, text: str, *, last: bool) -> tuple[str, list[dict[str, Any]]]:
        """Text and calls, where calls may be."""
        return (text, []) if self._readers is None else self._readers[choice].push(text, last=last)

    def _finish(self, piece: Piece) -> str:
        called = self._readers is not None and self._readers[piece.choice].calls
        return "tool_calls" if called and piece.finish == "stop" else piece.finish

    def _likely(self, parts: Sequence[Piece]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        content = [
            {
                **self._alternative(token.token_id, token.logprob),
                "top_logprobs": [self._alternative(*each) for each in token.top],
            }
            for token in (part.token for part in parts if part.token.finish != "stop")
        ]
        return {"content": content, "refusal": None}

    def _alternative(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = token_text(self._voice, token_id)
        whole = "\ufffd" not in text  # else it is a part of a character, whose bytes the text cannot tell
        return {"token": text, "logprob": finite(logprob), "bytes": list(text.encode()) if whole else None}


class TextWords(_Endpoint):
    """``/v1/completions``."""

    prefix, whole, chunked = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: str, voice: Voice, *, logprobs: bool, echoes: Sequence[str] = ()) -> None:
        """``echoes`` are what the answers begin with: the prompt of each, or nothing."""
        super().__init__(model, voice)
        self._logprobs = logprobs
        self._echoes = echoes

    def choice(self, index: int, parts: Sequence[Piece]) -> dict[str, Any]:
        """One whole answer."""
        text = "".join([*self._echoes[index : index + 1], *(part.text for part in parts)])
        return _text(index, text, self._likely(parts), parts[-1].finish)

    def opening(self, index: int) -> dict[str, Any] | None:
        """The prompt, where it was asked for."""
        return _text(index, self._echoes[index], None, None) if self._echoes else None

    def said(self, piece: Piece) -> dict[str, Any] | None:
        """What a step added."""
        logprobs = self._likely([piece])
        if not piece.text and (logprobs is None or not logprobs["tokens"]):
            return None
        return _text(piece.choice, piece.text, logprobs, None)

    def ended(self, piece: Piece) -> dict[str, Any]:
        """How it ended."""
        return _text(piece.choice, "", None, piece.finish)

    def _likely(self, parts: Sequence[Piece]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        tokens = [part.token for part in parts if part.token.finish != "stop"]
        texts = [token_text(self._voice, token.token_id) for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": [
                {
                    token_text(self._voice, token_id): finite(value)
                    for token_id, value in (*token.top, (token.token_id, token.logprob))
                }
                for token in tokens
            ],
            "text_offset": [sum(map(len, texts[:index])) for index in range(len(texts))],
        }


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _text(index: int, text: str, logprobs: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Tokens read and written; end tokens count."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
