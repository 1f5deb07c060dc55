"""Where each answer lies in a rendered conversation: proved from the model's own chat template.

A chat template is a program; nothing says which of the characters it prints are the assistant's. Rather than
knowing templates by name, this room renders the conversation again with one answer replaced by a sentinel and
keeps only what the two renders prove about each other. Floor F1; imports errors only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from backend.errors import DataError, ModelError

Message = Mapping[str, Any]

_PRIVATE_KEYS = frozenset({"trained", "weight"})
_SENTINEL = "QxTunesmithSentinelxQ"


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    generation_prompt: bool = False,
) -> str:
    """The text the model's own template makes of ``messages``.

    Raises ModelError (``no-chat-template``) where there is no template and DataError (``template-refused``)
    where the template rejects the conversation: wrong role order, a missing or non-text content.
    """
    if tokenizer.chat_template is None:
        raise ModelError(
            "This model has no chat template, so it cannot read messages.",
            code="no-chat-template",
            remedy="Give prompt and completion as plain text, or choose an instruction-tuned model.",
        )
    public = [{key: value for key, value in m.items() if key not in _PRIVATE_KEYS} for m in messages]
    try:
        text: str = tokenizer.apply_chat_template(
            public, tools=tools, tokenize=False, add_generation_prompt=generation_prompt
        )
    except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise DataError(
            f"The model's chat template refuses this conversation ({_roles(messages)}): {error}.",
            code="template-refused",
            remedy="Check that every message has a role this model knows and a text content, in an order it allows.",
        ) from error
    return text


def answer_spans(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    text: str,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[tuple[int, int]]:
    """Character spans in ``text`` of every trained assistant turn, its end-of-turn token excluded.

    ``text`` is ``render(tokenizer, messages, tools=tools)``. A span holds what the model has to write after its
    generation prompt: the answer, with tool calls or a thinking block where the template prints one.
    Raises ModelError (``unmaskable-template``) where a span cannot be proved.
    """
    return [
        _answer_span(tokenizer, messages, index, text, tools)
        for index, message in enumerate(messages)
        if message.get("role") == "assistant" and is_trained(message)
    ]


def is_trained(message: Message) -> bool:
    """Whether an assistant message is a target: unless it says ``trained: False`` or ``weight: 0``."""
    return message.get("trained", True) is not False and message.get("weight", 1) != 0


def _answer_span(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    index: int,
    text: str,
    tools: Sequence[Mapping[str, Any]] | None,
) -> tuple[int, int]:
    """The proof: text = head + answer + tail, where head and tail do not depend on the answer."""
    sentinel = _fresh_sentinel(text)
    marked = [*messages[:index], {"role": "assistant", "content": sentinel}, *messages[index + 1 :]]
    head, found, tail = render(tokenizer, marked, tools=tools).partition(sentinel)
    prompt = render(tokenizer, messages[:index], tools=tools, generation_prompt=True)
    bare = render(tokenizer, messages[:index], tools=tools)
    if prompt != bare and head.startswith(prompt):
        head = prompt
    proved = found and sentinel not in tail and text.startswith(head) and text.endswith(tail)
    if not proved or len(head) + len(tail) > len(text):
        raise ModelError(
            f"This model's chat template cannot be masked: the answer in message {index + 1} is not found in "
            "what the template prints.",
            code="unmaskable-template",
            remedy="Set trained: false on that message, or use a template that prints every answer once.",
        )
    return len(head), len(text) - len(tail)


def _fresh_sentinel(text: str) -> str:
    sentinel = _SENTINEL
    while sentinel in text:
        sentinel += "Q"
    return sentinel


def _roles(messages: Sequence[Message]) -> str:
    return ", ".join(str(message.get("role")) for message in messages) or "no messages"
