"""A chat template, taken apart once for a whole data set: fixed pieces with the messages' contents between them.

Rendering a template runs a small program for every row. Most templates only join fixed text and contents, or look
at a content for a few fixed words (a thinking block, a tool's answer) and join where they find none. Where that
is proved, rows are joined by hand. The proof has two parts, and without either there is no shape: a render whose
contents record every look at them records only looks whose outcome a few conditions on the content decide; and
awkward contents that meet the conditions render to exactly what joining gives.
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
    """What a template prints for one sequence of roles: ``pieces[0] + content + pieces[1] + … + pieces[-1]``.

    It holds for contents that meet ``conditions``. For assistant messages only, ``leads[i]``: how many characters
    before content ``i`` the model already writes itself (0 for most templates), and ``ends[i]``: how many special
    tokens behind it end the answer.
    """

    pieces: tuple[str, ...]
    leads: dict[int, int]
    ends: dict[int, int]
    conditions: Conditions

    def join(self, contents: Sequence[str]) -> str:
        """The text that the template prints for these contents."""
        pairs = zip(contents, self.pieces[1:], strict=True)
        return self.pieces[0] + "".join(content + piece for content, piece in pairs)


class TemplateShapes:
    """The shapes of one tokenizer's template, found when first asked for."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._shapes: dict[tuple[str, ...], TemplateShape | None] = {}
        self._trace = tracer(tokenizer)
        self._special = re.compile("|".join(map(re.escape, special_tokens(tokenizer))))

    def get(self, roles: tuple[str, ...]) -> TemplateShape | None:
        """The shape for this sequence of roles, or None where the template is more than a joiner."""
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
        """Whether joining gives what rendering gives and ``added``, for every probe in every place."""
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
    """The fixed text around the sentinels, or None unless each appears exactly once and in order."""
    pieces = []
    rest = text
    for sentinel in sentinels:
        piece, found, rest = rest.partition(sentinel)
        if not found or sentinel in rest:
            return None
        pieces.append(piece)
    return (*pieces, rest)
