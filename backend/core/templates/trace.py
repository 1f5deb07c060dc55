"""What a chat template looks at: a render whose contents record every look at them.

The answer is a set of conditions under which the outcome of every look is known, or None. For it to be complete, a
content must stay recognisable: the template's source may use no method, function or block that would hand its text
on as a plain string, and a filter or test that does so says so.
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

# ways to treat a content that its own methods see, or that look at its type alone
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
    """What a content must be for a shape to hold: none of ``needles`` inside it, and what the flags say."""

    needles: frozenset[str] = frozenset()
    settled: bool = False  # no white space around it
    nonempty: bool = False

    def met_by(self, content: str) -> bool:
        """Whether ``content`` meets every condition."""
        if (self.settled and content != content.strip()) or (self.nonempty and not content):
            return False
        return not any(needle in content for needle in self.needles)


def tracer(tokenizer: PreTrainedTokenizerBase) -> Trace | None:
    """A function of messages and what they render to; None if looks at their contents could stay hidden.

    It gives the conditions under which contents are only joined, or None where no conditions can say so. It
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
    """Whether this part of a template cannot turn a content into a plain string, or look at it unseen."""
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


# --- the environment ----------------------------------------------------------------------------------------


class _GenerationTag(Extension):
    """``{% generation %}`` … ``{% endgeneration %}`` marks a template's answers; here it only prints them."""

    tags = {"generation"}  # noqa: RUF012  declared so by jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> Environment:
    """The environment that transformers documents for chat templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    for name in environment.filters.keys() - _SEEN_FILTERS:
        environment.filters[name] = _confessing(name, environment.filters[name])
    for name in environment.tests.keys() - _BLIND_TESTS:
        environment.tests[name] = _confessing(name, environment.tests[name])
    environment.globals["raise_exception"] = _refuse
    return environment


def _confessing(name: str, function: Any) -> Callable[..., Any]:
    """``function``, which first notes every content that it is given."""

    @wraps(function)
    def confessing(*arguments: Any, **options: Any) -> Any:
        for content in _contents([*arguments, *options.values()]):
            content.looks.undecided.add(name)
        return function(*arguments, **options)

    return confessing


def _contents(value: object) -> Iterator[_Traced]:
    """Every content inside ``value``, at any depth."""
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
