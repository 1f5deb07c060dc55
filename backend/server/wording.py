"""What came from the engine in the words of OpenAI's clients: one class an endpoint. No request is read here."""

from __future__ import annotations

import codecs
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from backend.core.vocabulary import UNFINISHED, token_bytes, token_text
from backend.inference.decoding import NewToken
from backend.inference.prompting import PromptRenderer
from backend.inference.token_view import finite
from backend.server.jobs import Piece
from backend.server.tool_calls import CallReader


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

    def ended(self, choice: int, finish: str) -> dict[str, Any]:
        """The choice of the chunk that says how an answer ended."""


class _Endpoint:
    prefix: ClassVar[str]
    whole: ClassVar[str]
    chunked: ClassVar[str]

    def __init__(self, model: str, renderer: PromptRenderer) -> None:
        self._renderer = renderer
        self._begun = defaultdict[int, bool](bool)
        self._same = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def _is_first(self, choice: int) -> bool:
        """Whether the token to be put now is the first of its answer."""
        first, self._begun[choice] = not self._begun[choice], True
        return first

    def _spelled(self, token_id: int, *, first: bool) -> tuple[str, list[int] | None]:
        """A token's text and its bytes; joined, those of an answer are its text and bytes."""
        tokenizer = self._renderer.tokenizer
        return token_text(tokenizer, token_id, first=first), token_bytes(tokenizer, token_id, first=first)

    def head(self, *, chunk: bool = False) -> dict[str, Any]:
        return {**self._same, "object": self.chunked if chunk else self.whole}


class ChatWords(_Endpoint):
    """``/v1/chat/completions``."""

    prefix, whole, chunked = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, model: str, renderer: PromptRenderer, *, logprobs: bool, tools: bool = False) -> None:
        super().__init__(model, renderer)
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
            "finish_reason": self._finish(index, parts[-1].finish),
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

    def ended(self, choice: int, finish: str) -> dict[str, Any]:
        """How it ended."""
        return {**_delta(choice, {}), "finish_reason": self._finish(choice, finish)}

    def _read(self, choice: int, text: str, *, last: bool) -> tuple[str, list[dict[str, Any]]]:
        """Text and calls, where calls may be."""
        return (text, []) if self._readers is None else self._readers[choice].push(text, last=last)

    def _finish(self, choice: int, finish: str) -> str:
        called = self._readers is not None and self._readers[choice].calls
        return "tool_calls" if called and finish == "stop" else finish

    def _likely(self, parts: Sequence[Piece]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        content = []
        for part in (part for part in parts if part.token.finish != "stop"):
            token, first = part.token, self._is_first(part.choice)
            own = self._alternative(token.token_id, token.logprob, first=first)
            top = [self._alternative(*each, first=first) for each in token.top]
            content.append({**own, "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _alternative(self, token_id: int, logprob: float, *, first: bool) -> dict[str, Any]:
        text, own = self._spelled(token_id, first=first)
        return {"token": text, "logprob": finite(logprob), "bytes": own}


class TextWords(_Endpoint):
    """``/v1/completions``."""

    prefix, whole, chunked = "cmpl", "text_completion", "text_completion"

    def __init__(
        self, model: str, renderer: PromptRenderer, *, logprobs: bool, echoes: Sequence[str] = ()
    ) -> None:
        """``echoes`` are what the answers begin with: the prompt of each, or nothing."""
        super().__init__(model, renderer)
        self._logprobs = logprobs
        self._echoes = echoes
        self._offsets = defaultdict[int, int](int, {place: len(text) for place, text in enumerate(echoes)})
        self._decoders = defaultdict[int, codecs.IncrementalDecoder](
            lambda: codecs.getincrementaldecoder("utf-8")("replace")
        )

    def choice(self, index: int, parts: Sequence[Piece]) -> dict[str, Any]:
        """One whole answer, which may have been asked to have no token."""
        finish = parts[-1].finish if parts else "length"
        text = "".join([*self._echoes[index : index + 1], *(part.text for part in parts)])
        return _text(index, text, self._likely(parts), finish)

    def opening(self, index: int) -> dict[str, Any] | None:
        """The prompt, where it was asked for."""
        return _text(index, self._echoes[index], None, None) if self._echoes else None

    def said(self, piece: Piece) -> dict[str, Any] | None:
        """What a step added."""
        logprobs = self._likely([piece])
        if not piece.text and (logprobs is None or not logprobs["tokens"]):
            return None
        return _text(piece.choice, piece.text, logprobs, None)

    def ended(self, choice: int, finish: str) -> dict[str, Any]:
        """How it ended."""
        return _text(choice, "", None, finish)

    def _likely(self, parts: Sequence[Piece]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        said: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for part in (part for part in parts if part.token.finish != "stop"):
            token, first = part.token, self._is_first(part.choice)
            said["tokens"].append(self._key(token.token_id, first=first))
            said["token_logprobs"].append(finite(token.logprob))
            said["top_logprobs"].append(self._top(token, first=first))
            said["text_offset"].append(self._offset(part.choice, token.token_id, first=first))
        return said

    def _key(self, token_id: int, *, first: bool) -> str:
        """A token as OpenAI's completions spell it: its text, or the bytes of a part of a character."""
        text, own = self._spelled(token_id, first=first)
        if UNFINISHED not in text or own is None:
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in own)

    def _top(self, token: NewToken, *, first: bool) -> dict[str, float]:
        """The token that came and the likeliest; where two read the same, the second is named by its id."""
        found: dict[str, float] = {}
        for token_id, value in ((token.token_id, token.logprob), *token.top):
            text = self._key(token_id, first=first)
            same = token_id == token.token_id
            found.setdefault(text if same or text not in found else f"token_id:{token_id}", finite(value))
        return found

    def _offset(self, choice: int, token_id: int, *, first: bool) -> int:
        """Where a token begins in the answer, in characters; it may stand in the middle of one."""
        before = self._offsets[choice]
        _, own = self._spelled(token_id, first=first)  # a special token is no part of the text
        self._offsets[choice] += len(self._decoders[choice].decode(bytes(own or ())))
        return before


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
