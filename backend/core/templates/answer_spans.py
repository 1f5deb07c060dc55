"""The parts of a rendered conversation that the model writes, proved from the model's own chat template.

A chat template is a program; nothing says which of the characters it prints are the assistant's. Rather than knowing
templates by name, this module renders the conversation again, with one message marked or with others left out, and
keeps only what these renders prove about each other:

- An answer begins where the generation prompt ends.
- It ends with the special tokens behind it that are there too when the conversation stops after it (``turn_end``).
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
    """A conversation to train on: ``text``, and for each trained assistant message its spans [start, stop) in it.

    A span holds what the model has to write after ``render_prompt``: the answer, with tool calls or a thinking block
    where the template prints one, and the special tokens that end its turn. A message has more than one span where
    the template prints results of tools in its midst.
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
    """Return ``messages`` as the template prints them, and what of it the model has to write.

    Where a template prints the end of an answer only as the opening of the next turn, and the model stops there, that
    token is added to a last answer. Raises what ``render`` raises; ModelError: ``unmaskable-template`` where a span
    cannot be proved, ``no-turn-end`` where no special token ends it; and DataError: ``tool-calls-dropped`` where the
    template leaves out tool calls that are to be learned, ``template-refused`` for reasoning that it leaves out.
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
    """Return the chat with a token that stops the model behind its last answer, if the next turn begins with one."""
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

    The proof: text = head + answer + tail, where neither head nor tail depends on what the answer says.
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
    """Return where the model begins to write: behind the generation prompt, or behind what precedes any answer."""
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
    spellings = (said for head in heads for said in (head, head.rstrip()))
    found = next((len(said) for said in spellings if said and chat.text.startswith(said)), None)
    calls_alone = whole.numbers[0] != CONTENT and not has_reasoning(chat.messages[index])
    return _shared(chat, before, heads) if found is None and calls_alone else found


def _other_heads(chat: Chat, index: int) -> list[str]:
    """Return what stands before an answer without calls in the place of this one and of its results.

    Where the template takes no two answers in a row, those from the next question on.
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
    """Return how far the text goes as before another answer, in whole tokens or lines; None for less than a turn."""
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
    """Return what the text ends with behind the last mark; ``loose``: but for the quotes around that mark."""
    cuts = range(min(len(whole.tail), _QUOTES) + 1) if loose else range(1)
    return next((whole.tail[cut:] for cut in cuts if chat.text.endswith(whole.tail[cut:])), None)


def _around(chat: Chat, index: int, marked: Message, start: int, inside: Sequence[Span]) -> list[Span]:
    """Return the spans before and behind results that a template prints inside the turn: the calls, the words."""
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


# --- what must not be -------------------------------------------------------------------------------------


def _check_others(chat: Chat, index: int, spans: Sequence[Span]) -> None:
    """Raise ModelError where the content of another message lies in one of these spans."""
    said = "".join(chat.text[start:stop] for start, stop in spans)
    for number, message in enumerate(chat.messages):
        is_result = message.get("role") == "tool"
        content = str(message.get("content") or "").strip()
        if number == index or not content or not (is_result or content in said):
            continue
        places = printed(chat, number)
        quoted = str(chat.messages[index]).count(content)
        unsure = places is None and is_result and said.count(content) > quoted
        if unsure or any(
            begin < stop and start < end for begin, end in places or () for start, stop in spans
        ):
            raise unmaskable(
                f"it prints what message {number + 1} says inside the answer in message {index + 1}",
                "prints every message in a turn of its own",
            )


def _check_marks(message: Message, index: int, whole: Marks) -> None:
    """Raise where the template leaves out what the message says, or prints it twice."""
    calls = message.get("tool_calls")
    if calls and not any(whole.numbers):
        raise _dropped(calls[0]["function"]["name"], index)
    twice = len(set(whole.numbers)) < len(whole.numbers)
    if twice or not whole.marks or (not calls and whole.numbers != [CONTENT]):
        raise _not_found(message, index)


def _check_calls(message: Message, index: int, answer: str) -> None:
    """Many templates know no tools and print nothing for a call: the model would learn to say nothing."""
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
