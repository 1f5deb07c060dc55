"""Where each answer lies in a rendered conversation: proved from the model's own chat template.

A chat template is a program; nothing says which of the characters it prints are the assistant's. Rather than
knowing templates by name, this room renders the conversation again with one answer replaced by a sentinel and
keeps only what the two renders prove about each other. Floor F1; imports errors only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from backend.errors import DataError, ModelError

Message = Mapping[str, Any]
Tools = Sequence[dict[str, Any]]
Span = tuple[int, int]

SURROGATE = re.compile("[\ud800-\udfff]")

_REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
THOUGHTS = ("reasoning_content", "thinking")
"""The keys of a message under which templates look for reasoning."""

_LAYOUT = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1""")

_OUR_KEYS = frozenset({"trained", "weight"})
_SENTINEL = "QxTunesmithSentinelxQ"


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    tools: Tools | None = None,
    generation_prompt: bool = False,
) -> str:
    """The text that the model's own template makes of ``messages``.

    The arguments of tool calls are given as objects, which most templates print as JSON, whether they were written
    so or as JSON text, as OpenAI's format wants it; a template that refuses objects gets the text. Raises ModelError
    (``no-chat-template``) where there is no template and DataError: ``template-refused`` where the template rejects
    the conversation (wrong role order, a missing or non-text content), ``not-unicode``.
    """
    if tokenizer.chat_template is None:
        raise ModelError(
            "This model has no chat template, so it cannot read messages.",
            code="no-chat-template",
            remedy="Set model.chat_template, for example to chatml, or choose an instruction-tuned model.",
        )
    public = [{key: value for key, value in m.items() if key not in _OUR_KEYS} for m in messages]
    apply = partial(
        tokenizer.apply_chat_template,
        tools=tools,
        tokenize=False,
        add_generation_prompt=generation_prompt,
        chat_template=_dated(tokenizer),
    )
    try:
        text = _tried(apply, public)
    except _REFUSALS as error:
        roles = ", ".join(str(message.get("role")) for message in messages) or "no message"
        raise DataError(
            f"The model's chat template refuses this conversation ({roles}): {error}.",
            code="template-refused",
            remedy="Give every message a text content and a role this model knows, in an order it allows.",
        ) from error
    check_unicode(text)
    return text


def set_template_time(tokenizer: PreTrainedTokenizerBase, now: datetime | None) -> None:
    """Let the template of ``tokenizer`` print ``now`` wherever it prints the date; None: the time of each render.

    A run that is resumed on another day must render its rows as on its first day, or it trains on other ids.
    """
    tokenizer.template_time = now


def template_time(tokenizer: PreTrainedTokenizerBase) -> datetime:
    """Return the time that the template of ``tokenizer`` prints: the one that was set, else the current one."""
    fixed: datetime | None = getattr(tokenizer, "template_time", None)
    return fixed or datetime.now().astimezone()


def _dated(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the template with the time that was set in place of the present one; None: its own as it is."""
    fixed: datetime | None = getattr(tokenizer, "template_time", None)
    template = tokenizer.chat_template
    if fixed is None or not isinstance(template, str) or "strftime_now" not in template:
        return None
    return _with_date(template, fixed)


@cache
def _with_date(template: str, now: datetime) -> str:
    """Return ``template`` behind a macro strftime_now that knows the layouts which the template asks for.

    transformers takes no function of ours into a template. The line break after the macro is one that Jinja removes.
    """
    dates = {layout: now.strftime(layout) for _, layout in _LAYOUT.findall(template)}
    macro = (
        f"{{% set dates = {dates!r} %}}"
        "{{ dates[layout] if layout in dates else raise_exception('unknown layout of a date: ' + layout) }}"
    )
    return f"{{% macro strftime_now(layout) %}}{macro}{{% endmacro %}}\n{template}"


def _tried(apply: Callable[..., Any], messages: list[dict[str, Any]]) -> str:
    try:
        return str(apply([_with_arguments(message, _as_object) for message in messages]))
    except _REFUSALS:
        if not any(message.get("tool_calls") for message in messages):
            raise
        return str(apply([_with_arguments(message, _as_text) for message in messages]))


def _with_arguments(message: dict[str, Any], spell: Callable[[Any], Any]) -> dict[str, Any]:
    """The message with the arguments of its tool calls as ``spell`` writes them."""
    if not message.get("tool_calls"):
        return message
    return message | {
        "tool_calls": [
            {
                **call,
                "function": {**call["function"], "arguments": spell(call["function"].get("arguments", {}))},
            }
            for call in message["tool_calls"]
        ]
    }


def _as_object(arguments: Any) -> Any:
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def check_unicode(text: str) -> None:
    """Raise DataError (``not-unicode``) where ``text`` holds half a character, which has no bytes and no ids."""
    if not text.isascii() and SURROGATE.search(text):
        raise DataError(
            "A text holds half a character (a lone surrogate), so it is not Unicode.",
            code="not-unicode",
            remedy="Save the data again as UTF-8.",
        )


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Tools | None = None
) -> str:
    """The text from which a model writes its answer: the conversation and the opening of the answer's turn.

    That opening is the template's generation prompt. Where a template has none, it is whatever the template puts
    before an answer, unless that is only white space, which the model writes itself.
    """
    prompt = render(tokenizer, messages, tools=tools, generation_prompt=True)
    if prompt != render(tokenizer, messages, tools=tools):
        return prompt
    sentinel = fresh_sentinel(prompt)
    answered = [*messages, {"role": "assistant", "content": sentinel}]
    head, found, _ = render(tokenizer, answered, tools=tools).partition(sentinel)
    opens = found and head.startswith(prompt) and head[len(prompt) :].strip()
    return head if opens else prompt


def answer_spans(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    text: str,
    *,
    tools: Tools | None = None,
) -> list[Span]:
    """Character spans in ``text`` of every trained assistant turn, its end-of-turn token included.

    ``text`` is ``render(tokenizer, messages, tools=tools)``. A span holds what the model has to write after
    ``render_prompt``: the answer, with tool calls or a thinking block where the template prints one. Raises
    ModelError: ``unmaskable-template`` where a span cannot be proved, ``no-turn-end`` where no special token ends
    it; and DataError: ``tool-calls-dropped`` where the template leaves out tool calls that are to be learned.
    """
    special = special_pattern(tokenizer)
    spans = []
    for index, message in enumerate(messages):
        if message.get("role") == "assistant" and is_trained(message):
            start, stop = _answer(tokenizer, messages, index, text, tools)
            _check_calls(message, index, text[start:stop])
            spans.append((start, _turn_end(special, text, stop)))
    return spans


def is_trained(message: Message) -> bool:
    """Whether an assistant message is a target: unless it says ``trained: False`` or ``weight: 0``."""
    return message.get("trained") is not False and message.get("weight") != 0


def has_reasoning(message: Message) -> bool:
    """Whether a message brings thoughts of its own, beside its content or in front of it."""
    return any(message.get(key) for key in THOUGHTS) or "</think>" in str(message.get("content"))


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The spelling of every special token, longest first."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(added | set(tokenizer.all_special_tokens), key=lambda token: (-len(token), token))


def special_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """White space and then one special token."""
    return re.compile(r"\s*(?:" + "|".join(map(re.escape, special_tokens(tokenizer))) + ")")


def fresh_sentinel(text: str) -> str:
    """A word that ``text`` does not hold and that no template changes."""
    sentinel = _SENTINEL
    while sentinel in text:
        sentinel += "Q"
    return sentinel


def _answer(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    index: int,
    text: str,
    tools: Tools | None,
) -> Span:
    """The proof: text = head + answer + tail, where neither head nor tail depends on the answer."""
    sentinel = fresh_sentinel(text)
    marked = [*messages[:index], {"role": "assistant", "content": sentinel}, *messages[index + 1 :]]
    head, found, tail = render(tokenizer, marked, tools=tools).partition(sentinel)
    try:
        prompt = render_prompt(tokenizer, messages[:index], tools=tools)
    except DataError:  # a template may refuse to open a turn here, as before a first message
        prompt = head
    if text.startswith(prompt):
        head = prompt
    proved = found and sentinel not in tail and text.startswith(head) and text.endswith(tail)
    if not proved or len(head) + len(tail) > len(text):
        if has_reasoning(messages[index]):
            raise DataError(
                f"The answer in message {index + 1} has reasoning, but the model's chat template asks for answers "
                "without it.",
                code="template-refused",
                remedy="Set model.chat_template to thinking, or leave the reasoning out of the rows.",
            )
        raise ModelError(
            f"This model's chat template cannot be masked: the answer in message {index + 1} is not found in "
            "what the template prints.",
            code="unmaskable-template",
            remedy="Set trained: false on that message, or use a template that prints every answer once.",
        )
    return len(head), len(text) - len(tail)


def _check_calls(message: Message, index: int, answer: str) -> None:
    """Many templates know no tools and print nothing for a call: the model would learn to say nothing."""
    names = [str(call["function"]["name"]) for call in message.get("tool_calls") or ()]
    for name in names:
        if answer.count(name) < names.count(name):
            raise DataError(
                f"The model's chat template leaves out the call of {name} in message {index + 1}.",
                code="tool-calls-dropped",
                remedy="Use a model or a model.chat_template that knows tools, or give the message the weight 0.",
            )


def _turn_end(special: re.Pattern[str], text: str, stop: int) -> int:
    """The character after the special token that ends the answer which ends at ``stop``."""
    ending = special.match(text, stop)
    if ending is None:
        raise ModelError(
            "This model's chat template does not end an answer with a special token, so the model could never "
            "learn to stop.",
            code="no-turn-end",
            remedy="Use a template that prints the end-of-sequence token after each answer.",
        )
    return ending.end()
