"""What came from the engine in the words of OpenAI's clients: one class an endpoint. No request is read here."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from backend.core.tokenizer import decode
from backend.server.jobs import Piece
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

    def __init__(self, model: str, voice: Voice, *, logprobs: bool) -> None:
        super().__init__(model, voice)
        self._logprobs = logprobs

    def choice(self, index: int, parts: Sequence[Piece]) -> dict[str, Any]:
        """One whole answer."""
        text = "".join(part.text for part in parts)
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "finish_reason": parts[-1].finish,
            "logprobs": self._likely(parts),
        }

    def opening(self, index: int) -> dict[str, Any]:
        """Who speaks."""
        return _delta(index, {"role": "assistant", "content": ""})

    def said(self, piece: Piece) -> dict[str, Any] | None:
        """What a step added."""
        logprobs = self._likely([piece])
        if not piece.text and (logprobs is None or not logprobs["content"]):
            return None
        return {**_delta(piece.choice, {"content": piece.text}), "logprobs": logprobs}

    def ended(self, piece: Piece) -> dict[str, Any]:
        """How it ended."""
        return {**_delta(piece.choice, {}), "finish_reason": piece.finish}

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

    def __init__(self, model: str, voice: Voice, *, logprobs: bool) -> None:
        super().__init__(model, voice)
        self._logprobs = logprobs

    def choice(self, index: int, parts: Sequence[Piece]) -> dict[str, Any]:
        """One whole answer."""
        text = "".join(part.text for part in parts)
        return _text(index, text, self._likely(parts), parts[-1].finish)

    def opening(self, _: int) -> None:
        """Nothing is said before there is text."""

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
                {token_text(self._voice, token_id): finite(value) for token_id, value in token.top}
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


def token_text(voice: Voice, token_id: int) -> str:
    """One token as text, special tokens by their name."""
    text = decode(voice.tokenizer, [token_id])
    return text or str(voice.tokenizer.convert_ids_to_tokens(token_id) or "")


def finite(value: float) -> float:
    """A log-probability that JSON can hold."""
    return value if math.isfinite(value) else -9999.0
