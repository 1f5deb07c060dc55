"""Conversations as the model's own chat template prints them: the only place that calls a template."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from backend.errors import DataError, ModelError

Message = Mapping[str, Any]
Tools = Sequence[dict[str, Any]]
Span = tuple[int, int]

SURROGATE = re.compile("[\ud800-\udfff]")

_REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
THOUGHTS = ("reasoning_content", "thinking")
"""Keys of a message that templates read for reasoning."""

_LAYOUT = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1""")

_SYSTEM, _USER, _ANSWER = ({"role": role, "content": "a"} for role in ("system", "user", "assistant"))
_PROBES = ([_USER], [_USER, _ANSWER], [_SYSTEM, _USER, _ANSWER])

_OUR_KEYS = frozenset({"trained", "weight"})
_SENTINEL = "QxTunesmithSentinelxQ"


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    tools: Tools | None = None,
    generation_prompt: bool = False,
) -> str:
    """Return ``messages`` rendered by the model's own template.

    Arguments of tool calls may be objects or JSON text, as in OpenAI's format. They are passed as objects, which most
    templates print as JSON; a template that rejects objects gets the text. Raises ModelError ``no-chat-template`` if
    there is none and ``bad-template`` if it fails for every conversation; DataError ``template-refused`` if it
    rejects this one (wrong role order, a missing or non-text content), and ``not-unicode``.
    """
    public = [{key: value for key, value in m.items() if key not in _OUR_KEYS} for m in messages]
    apply = partial(
        tokenizer.apply_chat_template,
        tools=tools,
        tokenize=False,
        add_generation_prompt=generation_prompt,
        chat_template=_template(tokenizer, tools),
    )
    try:
        text = _tried(apply, public)
    except _REFUSALS as error:
        raise _refusal(apply, public, error) from error
    contents = (message.get("content") for message in public if message.get("role") != "system")
    if not text.strip() and any(str(content or "").strip() for content in contents):
        raise _bad_template("prints nothing of a conversation.")
    check_unicode(text)
    return text


def _refusal(
    apply: Callable[..., Any], messages: Sequence[Message], error: Exception
) -> DataError | ModelError:
    """Return the error for a conversation that the template rejects, or for a template that rejects every one."""
    if isinstance(error, TemplateSyntaxError):
        return _bad_template(f"is no Jinja: line {error.lineno}: {error.message}.")
    if all(_refuses(apply, probe) for probe in _PROBES):
        return _bad_template(f"renders no conversation at all: {error}.")
    roles = ", ".join(str(message.get("role")) for message in messages) or "no message"
    return DataError(
        f"The model's chat template refuses this conversation ({roles}): {error}.",
        code="template-refused",
        remedy="Give every message a text content and a role this model knows, in an order it allows.",
    )


def _refuses(apply: Callable[..., Any], messages: list[dict[str, Any]]) -> bool:
    try:
        apply(messages, tools=None)
    except _REFUSALS:
        return True
    return False


def set_template_time(tokenizer: PreTrainedTokenizerBase, now: datetime | None) -> None:
    """Fix the date that the template of ``tokenizer`` prints to ``now``; None means the time of each render.

    A run resumed on another day must render its rows as on its first day, or it would train on other ids.
    """
    tokenizer.template_time = now


def template_time(tokenizer: PreTrainedTokenizerBase) -> datetime:
    """Return the time that the template of ``tokenizer`` prints: the fixed one, else the current one."""
    fixed: datetime | None = getattr(tokenizer, "template_time", None)
    return fixed or datetime.now().astimezone()


def _template(tokenizer: PreTrainedTokenizerBase, tools: Tools | None) -> str:
    """Return the template to use, with the fixed time built in.

    Of several named templates it is "tool_use" if there are tools, else "default", as in transformers.
    """
    own = tokenizer.chat_template
    if own is None:
        raise ModelError(
            "This model has no chat template, so it cannot read messages.",
            code="no-chat-template",
            remedy="Set model.chat_template, for example to chatml, or choose an instruction-tuned model.",
        )
    if isinstance(own, dict):
        name = "tool_use" if tools is not None and "tool_use" in own else "default"
        if name not in own:
            raise _bad_template(
                f"is one of several with names ({', '.join(own)}), none of which is the default."
            )
        own = own[name]
    template = str(own)
    if not template.strip():
        raise _bad_template("is empty.")
    fixed: datetime | None = getattr(tokenizer, "template_time", None)
    return _with_date(template, fixed) if fixed is not None and "strftime_now" in template else template


def _bad_template(what: str) -> ModelError:
    return ModelError(
        f"This model's chat template {what}",
        code="bad-template",
        remedy="Set model.chat_template to a Jinja file or to the name of a template, for example chatml.",
    )


def printed_dates(template: str, now: datetime) -> str:
    """Return a text that changes whenever ``template`` would print another date at ``now``; "" if it prints none."""
    return f"{now.date()} {_dates(template, now)}" if "strftime" in template else ""


def _dates(template: str, now: datetime) -> dict[str, str]:
    return {layout: now.strftime(layout) for _, layout in _LAYOUT.findall(template)}


@cache
def _with_date(template: str, now: datetime) -> str:
    """Return ``template`` with a macro ``strftime_now`` before it that knows the formats the template asks for.

    A macro, since transformers passes no function of ours to a template. Jinja removes the line break after it.
    """
    macro = (
        f"{{% set dates = {_dates(template, now)!r} %}}"
        "{{ dates[layout] if layout in dates else raise_exception('unknown layout of a date: ' + layout) }}"
    )
    return f"{{% macro strftime_now(layout) %}}{macro}{{% endmacro %}}\n{template}"


def _tried(apply: Callable[..., Any], messages: list[dict[str, Any]]) -> str:
    try:
        return str(apply([_with_arguments(message, parsed_arguments) for message in messages]))
    except _REFUSALS:
        if not any(message.get("tool_calls") for message in messages):
            raise
        return str(apply([_with_arguments(message, _as_text) for message in messages]))


def _with_arguments(message: dict[str, Any], spell: Callable[[Any], Any]) -> dict[str, Any]:
    """Return ``message`` with ``spell`` applied to the arguments of its tool calls."""
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


def parsed_arguments(arguments: Any) -> Any:
    """Return the arguments of a tool call as an object if they are the JSON text of one, else unchanged."""
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def check_unicode(text: str) -> None:
    """Raise DataError ``not-unicode`` if ``text`` holds a lone surrogate, which has no UTF-8 bytes and no ids."""
    if not text.isascii() and SURROGATE.search(text):
        raise DataError(
            "A text holds half a character (a lone surrogate), so it is not Unicode.",
            code="not-unicode",
            remedy="Save the data again as UTF-8.",
        )


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Tools | None = None
) -> str:
    """Return the text that a model continues with its answer: the conversation and the template's generation prompt.

    If the template has no generation prompt, it is what the template prints before an answer, unless that is only
    white space: the model writes white space itself.
    """
    prompt = render(tokenizer, messages, tools=tools, generation_prompt=True)
    if prompt != render(tokenizer, messages, tools=tools):
        return prompt
    sentinel = fresh_sentinel(prompt)
    answered = [*messages, {"role": "assistant", "content": sentinel}]
    head, found, _ = render(tokenizer, answered, tools=tools).partition(sentinel)
    opens = found and head.startswith(prompt) and head[len(prompt) :].strip()
    return head if opens else prompt


def is_trained(message: Message) -> bool:
    """True if an assistant message is a target: it has neither ``trained: False`` nor ``weight: 0``."""
    return message.get("trained") is not False and message.get("weight") != 0


def has_reasoning(message: Message) -> bool:
    """True if a message has reasoning, under a key of its own or before its content."""
    return any(message.get(key) for key in THOUGHTS) or "</think>" in str(message.get("content"))


def set_end_tokens(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> None:
    """Store the model's stop ids, its ``eos_token_id``, with ``tokenizer``."""
    tokenizer.model_stops = tuple(sorted(set(ids)))


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Return the texts of the tokens at which the model stops: the tokenizer's EOS and the stored stop ids."""
    noted = tokenizer.convert_ids_to_tokens(list(getattr(tokenizer, "model_stops", ())))
    return frozenset(token for token in (tokenizer.eos_token, *noted) if token)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the text of every special token, longest first."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(added | set(tokenizer.all_special_tokens), key=lambda token: (-len(token), token))


def fresh_sentinel(text: str) -> str:
    """Return a word that ``text`` does not contain and that no template changes."""
    sentinel = _SENTINEL
    while sentinel in text:
        sentinel += "Q"
    return sentinel
