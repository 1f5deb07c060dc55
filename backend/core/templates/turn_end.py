"""Find where an answer ends: after its own special tokens, before the opening of the next turn."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from backend.core.templates.probe import CONTENT, Chat, Marks, common, mark, opening, printed, whole_tokens
from backend.core.templates.template import Message
from backend.errors import ModelError


@dataclass(frozen=True)
class Turn:
    """The end of an answer: the text after mark ``number`` in the message at ``index``, from position ``behind`` on.

    ``marked`` is that message with its marks. ``rest``: the number of messages up to and including this answer.
    """

    chat: Chat
    index: int
    marked: Message
    number: int
    rest: int
    behind: int

    def stop(self, follows: str) -> int:
        """Return how many characters of ``follows``, the text after the mark, belong to the answer.

        They end with the special tokens that are also printed if the conversation stops after the answer; what is
        printed only with more messages opens the next turn. The exception is a token at which the model stops
        generating, whatever it opens (GLM's ``<|user|>``). Raises ModelError ``no-turn-end``.
        """
        own = ""
        for own in self._own_texts(follows):
            stop = self._ended(follows, own)
            if stop and self._has_calls and not follows[:stop].endswith(tuple(self.chat.ends)):
                stop = self._ended(follows[: self._before_results(follows)], own)
            if stop:
                return stop
        for place in (0, common(follows, own.rstrip())):
            behind = follows[place:].lstrip()
            found = self.chat.special.match(behind)
            if found and found.group() in self.chat.ends:
                return len(follows) - len(behind) + found.end()
        if self._goes_on():
            return 0
        raise self._endless(follows)

    @property
    def _has_calls(self) -> bool:
        """True if the mark is in a tool call, whose closing text is then part of ``follows``."""
        return self.number != CONTENT

    def _own_texts(self, follows: str) -> Iterator[str]:
        """Yield the text after the mark if the conversation stops after the answer, and if another answer opens."""
        if self.rest == len(self.chat.messages):
            yield follows
            return
        messages = self.chat.replaced({self.index: self.marked})[: self.rest]
        yield self._behind(self.chat.tried(messages))
        opened = self._behind(self.chat.tried(messages, opens=True))
        opens = opening(self.chat, self.chat.messages[: self.index])
        yield opened.removesuffix(opens) if opens else opened[: self._first_opening(opened)]

    def _first_opening(self, text: str) -> int:
        """Return the position in ``text`` of a special token that also begins the conversation; its end if none."""
        places = printed(self.chat, 0)
        begun = self.chat.text[: places[0][0]] if places else self.chat.text
        found = self.chat.special.finditer(text)
        return next((each.start() for each in found if each.group() in begun), len(text))

    def _behind(self, text: str | None) -> str:
        return Marks.of(text or "", self.chat.word).behind(self.number)

    def _ended(self, follows: str, own: str) -> int | None:
        """Return the end of the special tokens that ``follows`` and ``own`` share, up to one that stops the model.

        After words they must be adjacent, with only white space before them.
        """
        stop = None
        for found in self.chat.special.finditer(follows, 0, common(follows, own)):
            between = follows[stop or 0 : found.start()]
            if not self._has_calls and (between if stop else between.strip()):
                break
            stop = found.end()
            if found.group() in self.chat.ends:
                break
        return stop

    def _before_results(self, follows: str) -> int:
        """Return how many characters of ``follows``, the rest of a call, come before the opening of its result.

        Found by rendering two results: what stands between them and does not close the first opens the second.
        """
        call = self.marked["tool_calls"][-1]
        result = {"role": "tool", "name": call["function"]["name"], "tool_call_id": call.get("id")}
        results = [{**result, "content": f"{self.chat.word}{name}"} for name in "RS"]
        later = self.chat.messages[self.index + 1 :]
        rest = itertools.dropwhile(lambda message: message.get("role") == "tool", later)
        text = self.chat.tried([*self.chat.messages[: self.index], self.marked, *results, *rest]) or ""
        _, _, behind = text.partition(f"{self.chat.word}{self.number}Z")
        parts = re.split(f"{self.chat.word}[RS]", behind)
        if len(parts) != 3:
            return len(follows)
        gap, between, closed = parts
        closes = whole_tokens(self.chat, between, common(between, closed), up=False)
        opens = common(gap[::-1], between[closes:][::-1])
        return whole_tokens(self.chat, gap, len(gap) - opens, up=True)

    def _goes_on(self) -> bool:
        """True if the model's next message follows in the same turn, so that no turn ends here."""
        later = range(self.index + 1, len(self.chat.messages))
        number = next((at for at in later if self.chat.messages[at].get("role") != "tool"), None)
        if (
            number is None
            or number == self.index + 1
            or self.chat.messages[number].get("role") != "assistant"
        ):
            return False
        marked, _ = mark(self.chat.messages[number], self.chat.word)
        text = self.chat.tried(self.chat.replaced({number: marked})) or ""
        found = Marks.of(text, self.chat.word).marks
        follows = bool(found) and found[0].start() == self.behind
        return follows and text[: self.behind] == self.chat.text[: self.behind]

    def _endless(self, follows: str) -> ModelError:
        found = self.chat.special.match(follows.lstrip())
        opens = f" What follows it, {found.group()}, opens the next turn." if found else ""
        return ModelError(
            f"This model's chat template does not end the answer in message {self.index + 1} with a special token of "
            f"its own, so the model could never learn to stop.{opens}",
            code="no-turn-end",
            remedy="Set model.chat_template to a template that prints the end-of-sequence token after each answer, "
            "or give that message the weight 0.",
        )
