"""The shape of a chat template: the fixed text around the messages' contents, found once for a whole data set.

Rendering runs the template for every row, which is slow. But most templates only join fixed text and contents, unless
a content holds a certain word (a thinking block, a tool's answer). If that is proved, rows are joined without a
render. The proof has two parts: a render with recording contents (``trace``) shows that every operation on a content
has an outcome that simple conditions on the content decide; and awkward contents that meet these conditions render to
exactly the joined text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from backend.core.templates.answer_spans import render_answers
from backend.core.templates.template import fresh_sentinel, render, special_tokens
from backend.core.templates.trace import Conditions, tracer
from backend.errors import TunesmithError

_PROBES = (
    "",
    "plain words",
    "  two spaces around  ",
    "\n\nlines\n\n\n",
    "\ttab\r\n\x1c\u00a0\u2003wide\u3000",
    "{{ braces }} {% if x %} {# note #} %s {0} $1 \\n",
    "\"quotes\" 'single' <b>&amp;</b> </think> <think>x</think>",
    "<|im_end|><|im_start|>assistant\n[INST] </s><end_of_turn>",
    "h\u00e9llo \u6f22\u5b57 \U0001f389 e\u0301 \ufffd",
    "0",
)


@dataclass(frozen=True)
class TemplateShape:
    """The fixed text of one sequence of roles: ``pieces[0] + content + pieces[1] + … + pieces[-1]`` is the render.

    Valid for contents that meet ``conditions``. For assistant messages, ``leads[i]`` is the number of characters
    before content ``i`` that the model writes itself (0 for most templates), ``ends[i]`` the number of special tokens
    after it that end the answer.
    """

    pieces: tuple[str, ...]
    leads: dict[int, int]
    ends: dict[int, int]
    conditions: Conditions

    def join(self, contents: Sequence[str]) -> str:
        """Return the text that the template prints for ``contents``."""
        pairs = zip(contents, self.pieces[1:], strict=True)
        return self.pieces[0] + "".join(content + piece for content, piece in pairs)


class TemplateShapes:
    """The shapes of one tokenizer's template, found on first use."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._shapes: dict[tuple[str, ...], TemplateShape | None] = {}
        self._trace = tracer(tokenizer)
        self._special = re.compile("|".join(map(re.escape, special_tokens(tokenizer))))

    def get(self, roles: tuple[str, ...]) -> TemplateShape | None:
        """Return the shape for a sequence of roles; None if none is proved."""
        if roles not in self._shapes:
            self._shapes[roles] = self._find(roles)
        return self._shapes[roles]

    def _find(self, roles: tuple[str, ...]) -> TemplateShape | None:
        if self._trace is None:
            return None
        base = fresh_sentinel(self._tokenizer.chat_template)
        sentinels = [f"{base}{index}Z" for index in range(len(roles))]
        messages = _messages(roles, sentinels)
        try:
            chat = render_answers(self._tokenizer, messages)
            text = render(self._tokenizer, messages)
            conditions = self._trace(messages, text)
        except (TunesmithError, TemplateError, TypeError, ValueError, LookupError, AttributeError):
            return None
        pieces = _split(chat.text, sentinels)
        if pieces is None or conditions is None:
            return None
        leads, ends = {}, {}
        for index, (start, stop) in zip(_answers(roles), chat.spans, strict=True):
            at = text.index(sentinels[index])
            leads[index] = at - start
            ends[index] = len(self._special.findall(chat.text, at + len(sentinels[index]), stop))
        shape = TemplateShape(pieces, leads, ends, conditions)
        added = chat.text.removeprefix(text)
        return shape if all(ends.values()) and self._holds(shape, roles, added) else None

    def _holds(self, shape: TemplateShape, roles: tuple[str, ...], added: str) -> bool:
        """True if for every probe in every place the joined text equals the rendered text and ``added``."""
        probes = [probe for probe in _PROBES if shape.conditions.met_by(probe)]
        for first in range(len(probes)):
            contents = [probes[(first + index) % len(probes)] for index in range(len(roles))]
            try:
                if render(self._tokenizer, _messages(roles, contents)) + added != shape.join(contents):
                    return False
            except TunesmithError:
                return False
        return True


def _answers(roles: Sequence[str]) -> list[int]:
    return [index for index, role in enumerate(roles) if role == "assistant"]


def _messages(roles: Sequence[str], contents: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]


def _split(text: str, sentinels: Sequence[str]) -> tuple[str, ...] | None:
    """Return the fixed text around the sentinels; None unless each occurs exactly once and in order."""
    pieces = []
    rest = text
    for sentinel in sentinels:
        piece, found, rest = rest.partition(sentinel)
        if not found or sentinel in rest:
            return None
        pieces.append(piece)
    return (*pieces, rest)
