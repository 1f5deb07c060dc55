"""Find hidden effects of a chat template on rows: other prompts than in training, added words, dropped parts.

Each distinct kind of row is rendered once with the model's own template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from backend.core.encoding.row import encode_row
from backend.core.templates.answer_spans import render_answers
from backend.core.templates.template import (
    THOUGHTS,
    Message,
    Tools,
    end_tokens,
    fresh_sentinel,
    has_reasoning,
    is_trained,
    render,
    special_tokens,
)
from backend.core.tokenizer import encode_messages, encode_prompt, stop_token_ids
from backend.data.checks import Scan
from backend.data.checks.template import TEMPLATE_CHECKS
from backend.data.doctor import Finding, run_checks
from backend.data.records import Row
from backend.errors import TunesmithError
from backend.run.config import DataConfig, TrainingConfig
from backend.utils.text_utils import shorten

SHOWN_BEFORE = 12
SHOWN_TOKENS = 8
SHOWN_CHARACTERS = 50

Faults = Mapping[str, str]
"""The slug of a data check -> what it found in a row."""


def template_faults(tokenizer: PreTrainedTokenizerBase) -> Callable[[Row], Faults]:
    """Return a function that finds the faults of a row; it finds none if the tokenizer has no template.

    Rows of one kind have the same faults, so only the first of each kind is rendered.
    """
    known: dict[object, Faults] = {}
    templated = tokenizer.chat_template is not None

    def look(row: Row) -> Faults:
        if not templated or not row.messages or row.chosen or row.rejected:
            return {}
        last = len(row.messages) - 1
        kinds = [_kind(each, at == 0, at == last) for at, each in enumerate(row.messages)]
        kind = (row.tools is None, tuple(kinds) if last < 2 else frozenset(kinds))
        if kind not in known:
            known[kind] = _faults(tokenizer, row)
        return known[kind]

    return look


def seen_by(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the arguments with which ``doctor.examine`` checks rows as this tokenizer encodes them."""
    model_ends = tokenizer.convert_tokens_to_ids(sorted(end_tokens(tokenizer)))
    return {
        "encode": lambda row: encode_row(row, tokenizer),
        "decode": lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
        "look": template_faults(tokenizer),
        "end_ids": stop_token_ids(tokenizer, model_ends),
        "special_ids": tokenizer.convert_tokens_to_ids(special_tokens(tokenizer)),
    }


def token_options(tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> dict[str, Any]:
    """Return what ``examine`` takes to check tokens without a run's configuration: ``seen_by`` and the defaults."""
    return {
        **seen_by(tokenizer),
        "max_length": max_length or DataConfig.model_fields["max_length"].default,
        "epochs": TrainingConfig.model_fields["num_train_epochs"].default,
    }


def template_warnings(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the faults of the template in ``rows``, one paragraph each."""
    findings, _ = run_checks(Scan(rows, look=template_faults(tokenizer)), TEMPLATE_CHECKS)
    return template_sentences(findings, len(rows))


def template_sentences(findings: Iterable[Finding], rows: int) -> tuple[str, ...]:
    """Return the ``findings`` about a chat template, one paragraph each; ``rows`` is the number of rows checked."""
    slugs = {check.slug for check in TEMPLATE_CHECKS}
    return tuple(
        f"{each.title}, in {each.count:,} of {rows:,} rows ({each.examples[0].place}: "
        f"{each.examples[0].detail}). {each.harm}"
        for each in findings
        if each.check in slugs
    )


def _kind(message: Message, first: bool, last: bool) -> tuple[object, ...]:
    """Return what the rendering of a message depends on besides its words: place, keys, how an answer begins."""
    role, content = message["role"], message["content"]
    more = len(message) > 2 and frozenset(key for key, value in message.items() if value)
    place = role, bool(content), more, first, last, is_trained(message)
    if role != "assistant":
        return place
    words = content.lstrip()
    begins = content[: len(content) - len(words)][:4], words[:1].isalnum()
    return *place, *begins, "<think>" in content, "</think>" in content


def _faults(tokenizer: PreTrainedTokenizerBase, row: Row) -> Faults:
    tools = row.tool_list()
    found = {}
    for slug, fault in (("asked-otherwise", _asked), ("added-words", _added), ("lost-parts", _lost)):
        try:
            found[slug] = fault(tokenizer, row.messages, tools)
        except TunesmithError:  # a row that the template refuses, which another check names
            found[slug] = ""
    if found["asked-otherwise"]:  # says the same, and more
        found["added-words"] = ""
    return {slug: detail for slug, detail in found.items() if detail}


def _asked(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Tools | None) -> str:
    """Return where the prompt at inference differs from the beginning of the training row; "" if nowhere."""
    ids = encode_messages(tokenizer, messages, tools=tools).input_ids
    for index in _answers(messages):
        prompt = encode_prompt(tokenizer, messages[:index], tools=tools)
        if ids[: len(prompt)] != prompt:
            apart = next(at for at, pair in enumerate(zip(prompt, ids, strict=False)) if pair[0] != pair[1])
            same = tokenizer.decode(ids[:apart])[-SHOWN_BEFORE:]
            rests = (tokenizer.decode(each[apart : apart + SHOWN_TOKENS]) for each in (prompt, ids))
            asked, trained = (_shown(same + rest) for rest in rests)
            return f"an answer is asked for with {asked} where the row has {trained}"
    return ""


def _added(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Tools | None) -> str:
    """Return words that the template puts before an answer and the row does not have; "" if there are none."""
    chat = render_answers(tokenizer, messages, tools=tools)
    text = chat.text
    for index, spans in zip(_answers(messages), chat.answers, strict=True):
        start, stop = spans[0][0], spans[-1][1]
        content = messages[index]["content"].strip()
        at = text.find(content, start, stop) if content else -1
        before = text[start:at].strip() if at > start else ""
        if before and not has_reasoning(messages[index]) and not messages[index].get("tool_calls"):
            return f"each answer begins with {_shown(before)}"
    return ""


def _shown(text: str) -> str:
    return shorten(repr(text), SHOWN_CHARACTERS)


def _answers(messages: Sequence[Message]) -> list[int]:
    return [at for at, each in enumerate(messages) if each["role"] == "assistant" and is_trained(each)]


def _lost(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Tools | None) -> str:
    """Return the parts of a row that the template leaves out; "" if there are none."""
    text = render(tokenizer, messages, tools=tools)
    word = fresh_sentinel(text)
    lost = ["the tools"] if tools and _rendered(tokenizer, messages, None) == text else []
    for number, message in enumerate(messages):
        for name, marked in _marked(message, word, last=number == len(messages) - 1):
            changed = [*messages[:number], marked, *messages[number + 1 :]]
            if word not in _rendered(tokenizer, changed, tools, refused=word):
                lost.append(name)
    return f"left out: {', '.join(dict.fromkeys(lost))}" if lost else ""


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Tools | None, refused: str = ""
) -> str:
    """Return the rendered text, or ``refused``: a template that rejects a changed part does read it."""
    try:
        return render(tokenizer, messages, tools=tools)
    except TunesmithError:
        return refused


def _marked(message: Message, word: str, *, last: bool) -> list[tuple[str, Message]]:
    """Return (name of a part, the message with ``word`` in place of that part), for each part."""
    role, content = message["role"], message["content"]
    thoughts = f"the reasoning of {'the last' if last else 'an earlier'} answer"
    parts: list[tuple[str, Message]] = []
    if "</think>" in content:
        answer = content.rpartition("</think>")[2]
        parts.append((thoughts, {**message, "content": f"<think>\n{word}\n</think>{answer}"}))
    elif content.strip():
        parts.append((f"the {role}'s text", {**message, "content": word}))
    parts += [(thoughts, {**message, key: word}) for key in THOUGHTS if message.get(key)]
    if calls := message.get("tool_calls"):
        named = {**calls[0], "function": {**calls[0]["function"], "name": word}}
        parts.append(("a tool call", {**message, "tool_calls": [named, *calls[1:]]}))
    return parts
