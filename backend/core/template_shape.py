"""A chat template, taken apart once for a whole data set: fixed pieces with the messages' contents between them.

Rendering a template runs a small program for every row. Most templates only join fixed text and contents; where
that is proved, rows are joined by hand. The proof has three parts, and without any of them there is no shape:
the template's source uses no filter or test that could hide a look at a content; a render whose contents record
every look at them (comparison, length, slicing, search) records none but ``strip``; and a set of awkward contents
renders to exactly what joining gives. Floor F1; imports errors and template.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from backend.core.template import answer_spans, fresh_sentinel, render
from backend.errors import TunesmithError

_FILTERS = frozenset({"trim", "tojson", "length", "count", "string", "default", "d", "first", "last", "safe"})
_TESTS = frozenset(
    {
        "defined",
        "undefined",
        "none",
        "string",
        "mapping",
        "iterable",
        "sequence",
        "true",
        "false",
        "even",
        "odd",
    }
)
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

    ``strip``: the template strips white space around contents. ``leads[i]``: how many characters before content
    ``i`` the model already writes itself (0 for most); only for assistant messages.
    """

    pieces: tuple[str, ...]
    strip: bool
    leads: dict[int, int]

    def join(self, contents: Sequence[str]) -> str:
        """The text that the template prints for these contents."""
        inner = [content.strip() for content in contents] if self.strip else contents
        pairs = zip(inner, self.pieces[1:], strict=True)
        return self.pieces[0] + "".join(content + piece for content, piece in pairs)


class TemplateShapes:
    """The shapes of one tokenizer's template, found when first asked for."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._shapes: dict[tuple[str, ...], TemplateShape | None] = {}
        self._trace = _tracer(tokenizer)

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
            text = render(self._tokenizer, messages)
            spans = answer_spans(self._tokenizer, messages, text)
            looks = self._trace(messages, text)
        except (TunesmithError, TemplateError, TypeError, ValueError, LookupError, AttributeError):
            return None
        pieces = _split(text, sentinels)
        if pieces is None or looks - {"strip"}:
            return None
        answers = [index for index, role in enumerate(roles) if role == "assistant"]
        starts = [text.index(sentinels[index]) for index in answers]
        leads = {i: at - start for i, at, (start, _) in zip(answers, starts, spans, strict=True)}
        shape = TemplateShape(pieces, "strip" in looks, leads)
        return shape if self._holds(shape, roles) else None

    def _holds(self, shape: TemplateShape, roles: tuple[str, ...]) -> bool:
        """Whether joining gives what rendering gives, for every probe in every place."""
        rounds = range(len(_PROBES))
        for first in rounds:
            contents = [_PROBES[(first + index) % len(_PROBES)] for index in range(len(roles))]
            try:
                if render(self._tokenizer, _messages(roles, contents)) != shape.join(contents):
                    return False
            except TunesmithError:
                return False
        return True


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


# --- a render that records every look at a content --------------------------------------------------------


class _Traced(str):
    """A string that notes in ``looks`` every operation on it but joining and printing; joins stay traced."""

    __slots__ = ("looks",)
    looks: set[str]

    def _like(self, text: str) -> _Traced:
        return _traced(text, self.looks)

    def __add__(self, other: str) -> _Traced:
        return self._like(str(self) + str(other))

    def __radd__(self, other: str) -> _Traced:
        return self._like(str(other) + str(self))

    def __getattribute__(self, name: str) -> Any:
        if name in {"looks", "_like"} or name.startswith("__"):
            return object.__getattribute__(self, name)
        if name == "strip":
            return partial(_strip, self)
        self.looks.add(name)
        return getattr(str(self), name)


_LOOKS = (
    *("len", "contains", "getitem", "iter", "hash", "mod", "rmod", "mul", "rmul"),
    *("eq", "ne", "lt", "le", "gt", "ge"),
)


def _watched(name: str) -> Callable[..., Any]:
    method = getattr(str, name)

    def look(self: _Traced, *arguments: Any) -> Any:
        self.looks.add(name)
        return method(str(self), *arguments)

    return look


for _operation in _LOOKS:
    setattr(_Traced, f"__{_operation}__", _watched(f"__{_operation}__"))


def _traced(text: str, looks: set[str]) -> _Traced:
    traced = _Traced(text)
    traced.looks = looks
    return traced


def _strip(text: _Traced, characters: str | None = None) -> _Traced:
    text.looks.add("strip" if characters is None else "strip(characters)")
    return _traced(str(text).strip(characters), text.looks)


class _GenerationTag(Extension):
    """``{% generation %}`` … ``{% endgeneration %}`` marks a template's answers; here it only prints them."""

    tags = {"generation"}  # noqa: RUF012  declared so by jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tracer(
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[Sequence[dict[str, str]], str], set[str]] | None:
    """A function that renders messages and gives the looks at their contents; None if that cannot be known."""
    environment = _environment()
    if not isinstance(tokenizer.chat_template, str):
        return None
    try:
        tree = environment.parse(tokenizer.chat_template)
        template = environment.from_string(tokenizer.chat_template)
    except TemplateError:
        return None
    filters = {node.name for node in tree.find_all(nodes.Filter)}
    tests = {node.name for node in tree.find_all(nodes.Test)}
    if filters - _FILTERS or tests - _TESTS:
        return None

    def trace(messages: Sequence[dict[str, str]], expected: str) -> set[str]:
        looks: set[str] = set()
        watched = [{**message, "content": _traced(message["content"], looks)} for message in messages]
        text = template.render(
            messages=watched,
            tools=None,
            documents=None,
            add_generation_prompt=False,
            **tokenizer.special_tokens_map,
        )
        return looks if text == expected else looks | {"another text"}

    return trace


def _environment() -> Environment:
    """The environment that transformers documents for chat templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda layout: datetime.now().astimezone().strftime(layout)
    return environment


def _refuse(message: str) -> None:
    raise TemplateError(message)
