"""Trace a chat template: render it with contents that record every operation on them.

The result is the conditions on a content under which the outcome of every recorded operation is known, or None. The
record is complete only while a content stays a recording string. So the template may use no method, function or block
that would pass its text on as a plain string, and filters and tests that do so are wrapped to record it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from backend.core.templates.template import template_time

# filters that only call recorded methods, and tests that look at the type alone
_SEEN_FILTERS = frozenset({"trim", "length", "count", "string", "default", "d", "first", "last"})
_BLIND_TESTS = frozenset({"defined", "undefined", "none", "string", "mapping", "true", "false", "boolean"})
_METHODS = frozenset(
    {
        "strip",
        "lstrip",
        "rstrip",
        "split",
        "rsplit",
        "startswith",
        "endswith",
        "items",
        "keys",
        "values",
        "get",
    }
)
_FUNCTIONS = frozenset({"raise_exception", "strftime_now", "namespace", "range"})
_TEXT_BLOCKS = (
    *(nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock, nodes.Concat),
    *(nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends),
)

Trace = Callable[[Sequence[dict[str, str]], str], "Conditions | None"]


@dataclass(frozen=True)
class Conditions:
    """Conditions on a content under which a shape is valid: it contains none of ``needles``, and the flags hold."""

    needles: frozenset[str] = frozenset()
    settled: bool = False  # no white space at its ends
    nonempty: bool = False

    def met_by(self, content: str) -> bool:
        """True if ``content`` meets every condition."""
        if (self.settled and content != content.strip()) or (self.nonempty and not content):
            return False
        return not any(needle in content for needle in self.needles)


def tracer(tokenizer: PreTrainedTokenizerBase) -> Trace | None:
    """Return a function (messages, their render) -> conditions; None if operations could go unrecorded.

    The function returns the conditions under which contents are only joined, None if there are no such conditions. It
    raises what the template raises.
    """
    environment = _environment()
    if not isinstance(tokenizer.chat_template, str):
        return None
    try:
        tree = environment.parse(tokenizer.chat_template)
        template = environment.from_string(tokenizer.chat_template)
    except TemplateError:
        return None
    if not all(_keeps_contents_recognisable(node) for node in tree.find_all(nodes.Node)):
        return None

    def trace(messages: Sequence[dict[str, str]], expected: str) -> Conditions | None:
        looks = _Looks()
        watched = [{**message, "content": _traced(message["content"], looks)} for message in messages]
        text = template.render(
            messages=watched,
            tools=None,
            documents=None,
            add_generation_prompt=False,
            strftime_now=lambda layout: template_time(tokenizer).strftime(layout),
            **tokenizer.special_tokens_map,
        )
        return looks.conditions() if text == expected else None

    return trace


def _keeps_contents_recognisable(node: nodes.Node) -> bool:
    """True if this node of a template can neither turn a content into a plain string nor inspect it unrecorded."""
    known = not isinstance(node, _TEXT_BLOCKS)
    match node:
        case nodes.Call(node=nodes.Getattr(attr=name)):
            known = name in _METHODS
        case nodes.Call(node=nodes.Name(name=name)):
            known = name in _FUNCTIONS
        case nodes.Call():
            known = False
        case nodes.Compare(expr=left, ops=operands):
            searched = [operand.expr for operand in operands if operand.op in {"in", "notin"}]
            listed = all(isinstance(place, (nodes.List, nodes.Tuple)) for place in searched)
            known = isinstance(left, nodes.Const) or listed
    return known


# --- contents that record -----------------------------------------------------------------------------------


@dataclass
class _Looks:
    """All operations of one render on contents, as the conditions under which their outcomes are known."""

    needles: set[str] = field(default_factory=set)
    settled: bool = False
    nonempty: bool = False
    undecided: set[str] = field(default_factory=set)

    def conditions(self) -> Conditions | None:
        if self.undecided:
            return None
        return Conditions(frozenset(self.needles), self.settled, self.nonempty)


class _Traced(str):
    """A content that records, in ``looks``, a condition for each operation, and returns the result under it."""

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
    """Fixed text joined with a content: conditions on the content alone decide no operation on it."""

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
    """Return False, which is right for every content without ``needle``."""
    if not isinstance(needle, str) or not needle or isinstance(needle, _Traced) or more:
        content.looks.undecided.add("search")
    else:
        content.looks.needles.add(needle)
    return False


def _uncut(content: _Traced, needle: object = None, *more: object) -> list[_Traced]:
    """Return the single part of a split, which is right for every content without the separator."""
    limits = [limit for limit in more if not isinstance(limit, int)]
    _lacks(content, needle, *limits)
    return [content]


def _unstripped(content: _Traced, characters: object = None) -> _Traced:
    """Return the content itself, which is right for every content without white space at its ends."""
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


# --- the environment ----------------------------------------------------------------------------------------


class _GenerationTag(Extension):
    """``{% generation %}`` … ``{% endgeneration %}`` marks a template's answers; here it only prints them."""

    tags = {"generation"}  # noqa: RUF012  declared so by jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> Environment:
    """Return the Jinja environment that transformers documents for chat templates, with recording filters."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    for name in environment.filters.keys() - _SEEN_FILTERS:
        environment.filters[name] = _recording(name, environment.filters[name])
    for name in environment.tests.keys() - _BLIND_TESTS:
        environment.tests[name] = _recording(name, environment.tests[name])
    environment.globals["raise_exception"] = _refuse
    return environment


def _recording(name: str, function: Any) -> Callable[..., Any]:
    """Return ``function`` wrapped to record each content among its arguments as undecided."""

    @wraps(function)
    def recording(*arguments: Any, **options: Any) -> Any:
        for content in _contents([*arguments, *options.values()]):
            content.looks.undecided.add(name)
        return function(*arguments, **options)

    return recording


def _contents(value: object) -> Iterator[_Traced]:
    """Yield every content inside ``value``, at any depth."""
    if isinstance(value, _Traced):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _contents(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _contents(inner)


def _refuse(message: str) -> None:
    raise TemplateError(message)
