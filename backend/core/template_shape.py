"""A chat template, taken apart once for a whole data set: fixed pieces with the messages' contents between them.

Rendering a template runs a small program for every row. Most templates only join fixed text and contents, or look
at a content for a few fixed words (a thinking block, a tool's answer) and join where they find none. Where that
is proved, rows are joined by hand. The proof has three parts, and without any of them there is no shape: the
template's source uses no filter or test that could hide a look at a content; a render whose contents record every
look at them records only looks whose outcome a few conditions on the content decide; and awkward contents that
meet the conditions render to exactly what joining gives. Floor F1; imports errors and template.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
class Conditions:
    """What a content must be for a shape to hold: none of ``needles`` inside it, and what the flags say."""

    needles: frozenset[str] = frozenset()
    settled: bool = False  # no white space around it
    nonempty: bool = False

    def met_by(self, content: str) -> bool:
        """Whether ``content`` meets every condition."""
        if (self.settled and content != content.strip()) or (self.nonempty and not content):
            return False
        return not any(needle in content for needle in self.needles)


@dataclass(frozen=True)
class TemplateShape:
    """What a template prints for one sequence of roles: ``pieces[0] + content + pieces[1] + … + pieces[-1]``.

    It holds for contents that meet ``conditions``. ``leads[i]``: how many characters before content ``i`` the
    model already writes itself (0 for most templates); only for assistant messages.
    """

    pieces: tuple[str, ...]
    leads: dict[int, int]
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
            conditions = self._trace(messages, text)
        except (TunesmithError, TemplateError, TypeError, ValueError, LookupError, AttributeError):
            return None
        pieces = _split(text, sentinels)
        if pieces is None or conditions is None:
            return None
        answers = [index for index, role in enumerate(roles) if role == "assistant"]
        starts = [text.index(sentinels[index]) for index in answers]
        leads = {i: at - start for i, at, (start, _) in zip(answers, starts, spans, strict=True)}
        shape = TemplateShape(pieces, leads, conditions)
        return shape if self._holds(shape, roles) else None

    def _holds(self, shape: TemplateShape, roles: tuple[str, ...]) -> bool:
        """Whether joining gives what rendering gives, for every probe in every place."""
        probes = [probe for probe in _PROBES if shape.conditions.met_by(probe)]
        for first in range(len(probes)):
            contents = [probes[(first + index) % len(probes)] for index in range(len(roles))]
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


@dataclass
class _Looks:
    """Every look that a render has taken at a content, and the conditions under which its outcome is known."""

    needles: set[str] = field(default_factory=set)
    settled: bool = False
    nonempty: bool = False
    undecided: set[str] = field(default_factory=set)

    def conditions(self) -> Conditions | None:
        if self.undecided:
            return None
        return Conditions(frozenset(self.needles), self.settled, self.nonempty)


class _Traced(str):
    """A content that answers every look as all contents would that meet the conditions it notes in ``looks``."""

    __slots__ = ("looks",)
    looks: _Looks

    def __add__(self, other: str) -> _Joined:
        return _joined(str(self) + str(other), self.looks)

    def __radd__(self, other: str) -> _Joined:
        return _joined(str(other) + str(self), self.looks)

    def __getattribute__(self, name: str) -> Any:
        if name == "looks" or name.startswith("__"):
            return object.__getattribute__(self, name)
        if name in _ANSWERS:
            return partial(_ANSWERS[name], self)
        return partial(_undecided, name, self)

    def __contains__(self, needle: object) -> bool:
        return _lacks(self, needle)

    def __eq__(self, other: object) -> bool:
        return self is other or _lacks(self, other)

    def __hash__(self) -> int:
        self.looks.undecided.add("hash")
        return hash(str(self))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __bool__(self) -> bool:
        self.looks.nonempty = True
        return True


class _Joined(_Traced):
    """Fixed text and a content: what is in it, or around it, no condition on the content alone decides."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name == "looks" or name.startswith("__"):
            return object.__getattribute__(self, name)
        return partial(_undecided, name, self)

    def __contains__(self, needle: object) -> bool:
        self.looks.undecided.add("in")
        return False

    def __eq__(self, other: object) -> bool:
        self.looks.undecided.add("==")
        return False

    __hash__ = _Traced.__hash__


def _traced(text: str, looks: _Looks) -> _Traced:
    traced = _Traced(text)
    traced.looks = looks
    return traced


def _joined(text: str, looks: _Looks) -> _Joined:
    joined = _Joined(text)
    joined.looks = looks
    return joined


def _undecided(name: str, content: _Traced, *arguments: Any) -> Any:
    content.looks.undecided.add(name)
    return getattr(str, name)(str(content), *arguments)


def _lacks(content: _Traced, needle: object, *more: object) -> bool:
    """False, the answer of every content that does not hold ``needle``."""
    if not isinstance(needle, str) or not needle or isinstance(needle, _Traced) or more:
        content.looks.undecided.add("search")
    else:
        content.looks.needles.add(needle)
    return False


def _uncut(content: _Traced, needle: object = None, *more: object) -> list[_Traced]:
    """The one part into which a separator cuts a content that does not hold it."""
    limits = [limit for limit in more if not isinstance(limit, int)]
    _lacks(content, needle, *limits)
    return [content]


def _unstripped(content: _Traced, characters: object = None) -> _Traced:
    """The content itself, which has no white space around it."""
    content.looks.settled = True
    if characters is not None and not str(characters).isspace():
        content.looks.undecided.add("strip")
    return content


_ANSWERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("startswith", "endswith"), _lacks),
    **dict.fromkeys(("split", "rsplit"), _uncut),
    **dict.fromkeys(("strip", "lstrip", "rstrip"), _unstripped),
}


def _watched(name: str) -> Callable[..., Any]:
    def look(self: _Traced, *arguments: Any) -> Any:
        return _undecided(name, self, *arguments)

    return look


for _operation in ("len", "getitem", "iter", "mod", "rmod", "mul", "rmul", "lt", "le", "gt", "ge"):
    setattr(_Traced, f"__{_operation}__", _watched(f"__{_operation}__"))


class _GenerationTag(Extension):
    """``{% generation %}`` … ``{% endgeneration %}`` marks a template's answers; here it only prints them."""

    tags = {"generation"}  # noqa: RUF012  declared so by jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tracer(
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[Sequence[dict[str, str]], str], Conditions | None] | None:
    """A function from messages to the conditions under which joining is rendering; None if none can be known."""
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

    def trace(messages: Sequence[dict[str, str]], expected: str) -> Conditions | None:
        looks = _Looks()
        watched = [{**message, "content": _traced(message["content"], looks)} for message in messages]
        text = template.render(
            messages=watched,
            tools=None,
            documents=None,
            add_generation_prompt=False,
            **tokenizer.special_tokens_map,
        )
        return looks.conditions() if text == expected else None

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
