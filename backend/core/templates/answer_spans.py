"""Find the parts of a rendered conversation that the model writes, from the model's own chat template.

A chat template is a program; it does not say which of the characters it prints are the assistant's. This module knows
no templates by name. It renders the conversation again with one message marked, or others left out, and compares:

- An answer begins where the generation prompt ends.
- It ends with the special tokens after it that are also printed when the conversation stops there (``turn_end``).
- The result of a tool is never a part of it, also where the template prints it inside the model's turn (Gemma 4).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from backend.core.templates.probe import (
    CONTENT,
    Chat,
    Marks,
    common,
    mark,
    opening,
    printed,
    unmaskable,
)
from backend.core.templates.template import (
    Message,
    Span,
    Tools,
    end_tokens,
    has_reasoning,
    is_trained,
    render,
    render_prompt,
)
from backend.core.templates.turn_end import Turn
from backend.errors import DataError, ModelError

_QUOTES = 8  # characters that a template may print around a text and not around a number


@dataclass(frozen=True)
class RenderedChat:
    """A conversation to train on: its ``text``, and for each trained assistant message its spans [start, stop).

    A span is what the model has to write after ``render_prompt``: the answer, with tool calls or a thinking block if
    the template prints them, and the special tokens that end its turn. A message has several spans if the template
    prints tool results inside it.
    """

    text: str
    answers: tuple[tuple[Span, ...], ...]

    @property
    def spans(self) -> list[Span]:
        """All spans, in order."""
        return [span for answer in self.answers for span in answer]


def render_answers(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Tools | None = None
) -> RenderedChat:
    """Render ``messages`` and return the text with the spans that the model has to write.

    If the opening of the next turn is the token at which the model stops, it is appended to a last answer. Raises
    what ``render`` raises; ModelError ``unmaskable-template`` if a span cannot be proved, ``no-turn-end`` if no
    special token ends it; DataError ``tool-calls-dropped`` if the template leaves out tool calls to be trained,
    ``template-refused`` for reasoning that it leaves out.
    """
    text = render(tokenizer, messages, tools=tools)
    chat = Chat(tokenizer, messages, tools, text, end_tokens(tokenizer))
    try:
        return _rendered(chat)
    except ModelError as error:
        ended = _with_end(chat) if error.code == "no-turn-end" else chat
        if ended is chat:
            raise
        return _rendered(ended)


def _rendered(chat: Chat) -> RenderedChat:
    answers = []
    for index, message in enumerate(chat.messages):
        if message.get("role") == "assistant" and is_trained(message):
            spans = _answer(chat, index)
            _check_calls(message, index, "".join(chat.text[start:stop] for start, stop in spans))
            answers.append(tuple(spans))
    return RenderedChat(chat.text, tuple(answers))


def _with_end(chat: Chat) -> Chat:
    """Return the chat with a stop token appended to its last answer, if the next turn begins with one."""
    if chat.messages[-1].get("role") != "assistant":
        return chat
    calls = chat.messages[-1].get("tool_calls")
    reply = {"role": "tool", "name": calls[-1]["function"]["name"]} if calls else {"role": "user"}
    longer = chat.tried([*chat.messages, {**reply, "content": chat.word}]) or ""
    found = chat.special.match(longer, len(chat.text)) if longer.startswith(chat.text) else None
    if found is None or found.group() not in chat.ends:
        return chat
    return replace(chat, text=chat.text + found.group(), added=found.group())


def _answer(chat: Chat, index: int) -> list[Span]:
    """Return the spans of one answer.

    Proved by text = head + answer + tail, where neither head nor tail depends on the answer.
    """
    marked, loose = mark(chat.messages[index], chat.word)
    whole = Marks.of(chat.probe(chat.replaced({index: marked})) + chat.added, chat.word)
    _check_marks(chat.messages[index], index, whole)
    start, tail = _start(chat, index, whole), _tail(chat, whole, loose=loose)
    if start is None or tail is None or start + len(tail) > len(chat.text):
        raise _not_found(chat.messages[index], index)
    inside = [span for span in chat.results if start <= span[0] and span[1] <= len(chat.text) - len(tail)]
    if inside:
        spans = _around(chat, index, marked, start, inside)
    else:
        behind = len(chat.text) - len(whole.tail)
        turn = Turn(chat, index, marked, whole.numbers[-1], index + 1, behind)
        spans = [(start, behind + turn.stop(whole.tail))]
    spans = [(begin, stop) for begin, stop in spans if stop > begin]
    _check_others(chat, index, spans)
    return spans


def _start(chat: Chat, index: int, whole: Marks) -> int | None:
    """Return where the model begins to write: after the generation prompt, or after what precedes any answer."""
    before = chat.messages[:index]
    try:
        prompt = render_prompt(chat.tokenizer, before, tools=chat.tools)
    except DataError:  # a template may refuse to open a turn here, as before a first message
        prompt = None
    if prompt is not None and chat.text.startswith(prompt):
        return len(prompt)
    first = whole.text[: whole.marks[0].start()]
    opens = opening(chat, before)
    heads = [first[: first.rfind(opens) + len(opens)]] if opens and opens in first else []
    if whole.numbers[0] == CONTENT:
        heads.append(first)
    heads += _other_heads(chat, index)
    candidates = (each for head in heads for each in (head, head.rstrip()))
    found = next((len(each) for each in candidates if each and chat.text.startswith(each)), None)
    calls_alone = whole.numbers[0] != CONTENT and not has_reasoning(chat.messages[index])
    return _shared(chat, before, heads) if found is None and calls_alone else found


def _other_heads(chat: Chat, index: int) -> list[str]:
    """Return the texts before an answer without calls, rendered in place of this one and its results.

    The second also leaves out the answers that follow: some templates reject two answers in a row.
    """
    heads = []
    later = chat.messages[index + 1 :]
    for skipped in ({"tool"}, {"tool", "assistant"}):
        rest = itertools.dropwhile(lambda message: message.get("role") in skipped, later)  # noqa: B023
        plain = chat.tried([*chat.messages[:index], {"role": "assistant", "content": chat.word}, *rest])
        if plain is not None and chat.word in plain:
            heads.append(plain.partition(chat.word)[0])
    return heads


def _shared(chat: Chat, before: Sequence[Message], heads: Sequence[str]) -> int | None:
    """Return how far ``chat.text`` equals the text before another answer, in whole tokens or lines; None if short."""
    closed = chat.tried(before)
    if closed is None or not chat.text.startswith(closed):
        return None
    for head in heads:
        place = common(chat.text, head)
        ends = [found.end() for found in chat.special.finditer(chat.text, 0, place)]
        whole = max([chat.text.rfind("\n", 0, place) + 1, *ends[-1:]])
        if whole >= len(closed):
            return whole
    return None


def _tail(chat: Chat, whole: Marks, *, loose: bool) -> str | None:
    """Return the text after the last mark, if ``chat.text`` ends with it; ``loose``: ignoring quotes around it."""
    cuts = range(min(len(whole.tail), _QUOTES) + 1) if loose else range(1)
    return next((whole.tail[cut:] for cut in cuts if chat.text.endswith(whole.tail[cut:])), None)


def _around(chat: Chat, index: int, marked: Message, start: int, inside: Sequence[Span]) -> list[Span]:
    """Return the spans before and after tool results printed inside the turn: the calls, then the words."""
    later = range(index + 1, len(chat.messages))
    tools = list(itertools.takewhile(lambda number: chat.messages[number].get("role") == "tool", later))
    result = f"{chat.word}R"
    blank = {number: {**chat.messages[number], "content": result} for number in tools}
    whole = Marks.of(chat.probe(chat.replaced({index: marked} | blank)) + chat.added, chat.word)
    first, last = whole.text.find(result), whole.text.rfind(result) + len(result)
    calls = [found for found in whole.marks if found.start() < first]
    words = [found for found in whole.marks if found.start() > last]
    gap = whole.text[last : words[0].start()] if words else ""
    split = calls and len(words) <= 1 and len(calls) + len(words) == len(whole.marks)
    if not split or not chat.text.startswith(gap, inside[-1][1]):
        raise unmaskable(
            f"it prints results of tools inside the model's turn, where what the model writes in message {index + 1} "
            "cannot be told apart from them",
            "prints results of tools in turns of their own",
        )
    follows = whole.text[calls[-1].end() : first]
    behind = inside[0][0] - len(follows)
    turn = Turn(chat, index, marked, whole.numbers[len(calls) - 1], index + 1, behind)
    spans = [(start, behind + turn.stop(follows))]
    if words:
        behind = len(chat.text) - len(whole.tail)
        turn = Turn(chat, index, marked, CONTENT, tools[-1] + 1, behind)
        spans.append((inside[-1][1] + len(gap), behind + turn.stop(whole.tail)))
    return spans


# --- checks -------------------------------------------------------------------------------------


def _check_others(chat: Chat, index: int, spans: Sequence[Span]) -> None:
    """Raise ModelError if the content of another message is in one of these spans."""
    text = "".join(chat.text[start:stop] for start, stop in spans)
    for number, message in enumerate(chat.messages):
        is_result = message.get("role") == "tool"
        content = str(message.get("content") or "").strip()
        if number == index or not content or not (is_result or content in text):
            continue
        places = printed(chat, number)
        quoted = str(chat.messages[index]).count(content)
        unsure = places is None and is_result and text.count(content) > quoted
        if unsure or any(
            begin < stop and start < end for begin, end in places or () for start, stop in spans
        ):
            raise unmaskable(
                f"it prints what message {number + 1} says inside the answer in message {index + 1}",
                "prints every message in a turn of its own",
            )


def _check_marks(message: Message, index: int, whole: Marks) -> None:
    """Raise DataError or ModelError if the template leaves a text of the message out or prints it twice."""
    calls = message.get("tool_calls")
    if calls and not any(whole.numbers):
        raise _dropped(calls[0]["function"]["name"], index)
    twice = len(set(whole.numbers)) < len(whole.numbers)
    if twice or not whole.marks or (not calls and whole.numbers != [CONTENT]):
        raise _not_found(message, index)


def _check_calls(message: Message, index: int, answer: str) -> None:
    """Raise DataError if a call is missing from the answer: many templates print none, and would train on nothing."""
    names = [str(call["function"]["name"]) for call in message.get("tool_calls") or ()]
    for name in names:
        if answer.count(name) < names.count(name):
            raise _dropped(name, index)


def _dropped(name: str, index: int) -> DataError:
    return DataError(
        f"The model's chat template leaves out the call of {name} in message {index + 1}.",
        code="tool-calls-dropped",
        remedy="Use a model or a model.chat_template that knows tools, or give the message the weight 0.",
    )


def _not_found(message: Message, index: int) -> DataError | ModelError:
    if has_reasoning(message):
        return DataError(
            f"The answer in message {index + 1} has reasoning, but the model's chat template asks for answers "
            "without it.",
            code="template-refused",
            remedy="Set model.chat_template to thinking, or leave the reasoning out of the rows.",
        )
    return unmaskable(
        f"the answer in message {index + 1} is not found in what the template prints",
        "prints every answer once",
    )
