"""Turn the tokens of one answer into text as they come: incremental decoding, stop strings, finish reason."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from backend.core.tokenizer import IncrementalDecoder
from backend.errors import InferenceError, TunesmithError
from backend.inference.decoding import NewToken


class AnswerText:
    """The text of one row. A stop string ends it and is never part of it, not even its first characters.

    ``finish`` is "" until the end, then ``stop`` (stop token or stop string) or ``length``. Raises InferenceError
    ``bad-stop`` for a stop string that is empty or no text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: str | Sequence[str] = ()) -> None:
        self.text = ""
        self.finish = ""
        self._decoder = IncrementalDecoder(tokenizer)
        self._stop = (stop,) if isinstance(stop, str) else tuple(stop)
        for odd in (each for each in self._stop if not isinstance(each, str) or not each):
            raise InferenceError(
                f"A stop string is {odd!r}.", remedy="Give texts of at least one character.", code="bad-stop"
            )
        self._held = ""  # text that may be the beginning of a stop string

    def push(self, token: NewToken) -> str:
        """Return the text that ``token`` adds and no stop string can take back.

        Raises ``token.error`` if it is a TunesmithError; any other error becomes InferenceError ``answer-failed``.
        """
        if isinstance(token.error, TunesmithError):
            raise token.error
        if token.error is not None:
            raise InferenceError(
                f"This answer could not be written on: {token.error!r}.",
                remedy="Ask again, or for another form.",
                code="answer-failed",
            ) from token.error
        piece = "" if token.finish == "stop" else self._decoder.push(token.token_id)
        piece += self._decoder.finish() if token.finish else ""
        text = self._held + piece
        cuts = [found for found in (text.find(stop) for stop in self._stop) if found >= 0]
        if cuts:
            self.finish, shown, self._held = "stop", text[: min(cuts)], ""
        else:
            keep = 0 if token.finish else possible_start(text, self._stop)
            shown, self._held = text[: len(text) - keep], text[len(text) - keep :]
            self.finish = token.finish
        self.text += shown
        return shown


def possible_start(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest suffix of ``text`` that is a proper prefix of one of ``stops``."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    return next(
        (
            n
            for n in range(min(longest, len(text)), 0, -1)
            if any(stop.startswith(text[-n:]) for stop in stops)
        ),
        0,
    )
