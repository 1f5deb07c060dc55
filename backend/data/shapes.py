"""Build a row from the cells of each shape; a cell that does not fit is refused with its field and the reason."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from backend.data.chat import (
    as_given,
    bad_row,
    cell_text,
    is_conversation,
    is_message,
    json_text,
    read_json_cell,
    read_message,
    read_messages,
    refuse_media,
)
from backend.data.exact_json import Spelled
from backend.data.families import PARTS, Columns
from backend.data.pairs import (
    after_cue,
    dialogue,
    judged,
    require_answers,
    split_given,
    split_shared,
    split_texts,
    winner,
    without_cue,
)
from backend.data.records import Message, Row, untrained

Cells = Mapping[str, Any]

_GOOD = (
    "true",
    "1",
    "1.0",
    "good",
    "yes",
    "up",
    "desirable",
    "chosen",
    "accepted",
    "like",
    "liked",
    "correct",
    "+1",
)
_BAD = ("false", "0", "0.0", "bad", "no", "down", "undesirable", "rejected", "refused", "dislike", "disliked")
FLAGS: Mapping[str, bool] = {
    **dict.fromkeys(_GOOD, True),
    **dict.fromkeys((*_BAD, "incorrect", "wrong", "-1"), False),
    "t": True,
    "y": True,
    "f": False,
    "n": False,
    "positive": True,
    "negative": False,
    "thumbs_up": True,
    "thumbs_down": False,
    "thumbs up": True,
    "thumbs down": False,
    "👍": True,
    "👎": False,
    "preferred": True,
    "not_preferred": False,
    "acceptable": True,
    "unacceptable": False,
    **dict.fromkeys(
        ("accept", "approve", "approved", "right", "helpful", "pass", "passed", "ok", "okay"), True
    ),
    **dict.fromkeys(
        ("reject", "disapproved", "denied", "unhelpful", "fail", "failed", "not ok", "poor"), False
    ),
    **dict.fromkeys(
        ("gut", "richtig", "buena", "bueno", "correcto", "correcta", "bon", "bonne", "好", "对"), True
    ),
    **dict.fromkeys(("schlecht", "falsch", "mala", "malo", "incorrecto", "incorrecta", "mauvais"), False),
    **dict.fromkeys(("mauvaise", "差", "坏", "不好", "错"), False),
}
"""Spellings of a good (True) or bad answer."""
DIALOGUE_SHAPES = ("preference", "unpaired preference")
"""Shapes in which a text may be a whole dialogue, as in HH-RLHF."""


def build(shape: str, cells: Cells, columns: Columns, place: str) -> Row:
    """Return the row in ``cells`` read as ``shape``; raises ``DataError`` with the reason if it is none."""
    for part in PARTS[shape].required:
        if columns[part] not in cells:
            raise bad_row(f"the field {columns[part]!r} is missing")
    refuse_media(cells)
    row = _BUILDERS[shape](cells, columns, place)
    if "group" in columns:
        row = replace(row, group=cell_text(cells.get(columns["group"]), columns["group"]))
    return row


def _text(cells: Cells, columns: Columns, place: str) -> Row:
    field = columns["text"]
    if is_conversation(given := as_given(cells[field], field)):
        return Row(place, messages=read_messages(given, field))
    return Row(place, text=cell_text(given, field))


def _messages(cells: Cells, columns: Columns, place: str) -> Row:
    messages = read_messages(cells[columns["messages"]], columns["messages"])
    return Row(place, messages=_with_system(messages, cells, columns), tools=_tools(cells, columns))


def _prompt_completion(cells: Cells, columns: Columns, place: str) -> Row:
    prompt = _prompt_messages(cells, columns)
    completion = columns["completion"]
    given = _first_answer(cells[completion], completion)
    if choices := _choices(cells, columns):
        given = _chosen_letter(given, choices, completion)
    answer = _turns(given, completion, "assistant")
    if reasoning := _optional_text(cells, columns, "reasoning"):
        answer = (*answer[:-1], {**answer[-1], "reasoning_content": reasoning})
    return Row(place, messages=(*prompt, *answer), tools=_tools(cells, columns))


def _alpaca(cells: Cells, columns: Columns, place: str) -> Row:
    renamed = {"instruction": "prompt", "output": "completion"}
    return _prompt_completion(
        cells, {renamed.get(part, part): column for part, column in columns.items()}, place
    )


def _prompt(cells: Cells, columns: Columns, place: str) -> Row:
    return Row(place, messages=_prompt_messages(cells, columns), tools=_tools(cells, columns))


def _prompt_messages(cells: Cells, columns: Columns) -> tuple[Message, ...]:
    prompt = untrained(_turns(cells[columns["prompt"]], columns["prompt"], "user"))
    return _with_surroundings(prompt, cells, columns)


def _with_surroundings(prompt: tuple[Message, ...], cells: Cells, columns: Columns) -> tuple[Message, ...]:
    """Return the prompt with its optional parts.

    Context goes above the text of its last message, input and choices below; system message and history go first.
    """
    text = str(prompt[-1]["content"])
    if context := _optional_text(cells, columns, "context"):
        text = f"{context}\n\n{text}"
    if extra := _optional_text(cells, columns, "input"):
        text = f"{text}\n{extra}"
    for label, choice in _choices(cells, columns).items():
        text = f"{text}\n{label}. {choice}"
    prompt = (*_history(cells, columns), *prompt[:-1], {**prompt[-1], "content": text})
    return _with_system(prompt, cells, columns)


def _first_answer(value: Any, field: str) -> Any:
    """Return the first answer of SQuAD's ``{"text": [...], "answer_start": [...]}``; any other cell as it is."""
    if not isinstance(value, Mapping) or not isinstance(value.get("text"), list):
        return value
    if not value["text"]:
        raise bad_row(f"the field {field!r} holds no answer")
    return value["text"][0]


def _choices(cells: Cells, columns: Columns) -> dict[str, str]:
    """Return the choices of a question by letter, from a list, an object or ARC's ``{"text": […], "label": […]}``."""
    value = cells.get(columns["choices"]) if "choices" in columns else None
    if value in (None, "", [], {}):
        return {}
    field = columns["choices"]
    given = read_json_cell(value, field)
    if isinstance(given, Mapping):
        texts = given.get("text", list(given.values()))
        labels = given.get("label", list(given)) if "text" in given else list(given)
    else:
        texts = given
        labels = list(string.ascii_uppercase)[: len(given)] if isinstance(given, list) else []
    if not isinstance(texts, list) or not isinstance(labels, list) or len(labels) != len(texts):
        raise bad_row(f"the field {field!r} must be a list of up to 26 choices")
    return {
        cell_text(label, field): cell_text(text, f"{field}[{number}]")
        for number, (label, text) in enumerate(zip(labels, texts, strict=True))
    }


def _chosen_letter(answer: Any, choices: Mapping[str, str], field: str) -> Any:
    """Return the letter for an answer that is an index into the choices; any other answer as it is."""
    counts = (
        isinstance(answer, Spelled | int | str) and not isinstance(answer, bool) and str(answer).isdecimal()
    )
    written = isinstance(answer, str) and not isinstance(answer, Spelled)
    if not counts or str(answer) in choices:
        return answer
    if written and str(answer) in choices.values():
        raise bad_row(
            f"the field {field!r} is {answer!r}, which is a choice but may also be the index of one; write a letter"
        )
    if int(answer) >= len(choices):
        raise bad_row(f"the field {field!r} is {answer}; counted from 0, there are {len(choices)} choices")
    return list(choices)[int(answer)]


def _history(cells: Cells, columns: Columns) -> tuple[Message, ...]:
    """Return earlier turns from a list of [user, assistant] pairs or of messages; their answers are trained."""
    value = cells.get(columns["history"]) if "history" in columns else None
    if value in (None, "", []):
        return ()
    field = columns["history"]
    turns = read_json_cell(value, field)
    if is_conversation(turns):
        return read_messages(turns, field)
    if not isinstance(turns, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in turns):
        raise bad_row(f"the field {field!r} must be a list of [user, assistant] pairs, or of messages")
    return tuple(
        {"role": role, "content": cell_text(text, f"{field}[{number}]")}
        for number, pair in enumerate(turns)
        for role, text in zip(("user", "assistant"), pair, strict=True)
    )


def _preference(cells: Cells, columns: Columns, place: str) -> Row:
    fields = (columns["chosen"], columns["rejected"])
    chosen, rejected = (_reply(cells[field], field) for field in fields)
    tools = _tools(cells, columns)
    value = cells.get(columns["prompt"]) if "prompt" in columns else None
    if value is None:
        texts = [str(reply[0]["content"]) for reply in (chosen, rejected)]
        plain = texts == [cells[field] for field in fields]
        prompt, chosen, rejected = split_texts(*texts) if plain else split_shared(chosen, rejected)
        prompt = untrained(_with_surroundings(prompt, cells, columns))
    else:
        field = columns["prompt"]
        if isinstance(value, Mapping):
            asked = read_messages(value.get("messages"), f"{field}.messages")
            tools = _tool_list(value.get("tools"), f"{field}.tools")
        elif turns := dialogue(value):
            asked, chosen, rejected = without_cue(turns), after_cue(chosen), after_cue(rejected)
        else:
            asked = _turns(value, field, "user")
        whole = _with_surroundings(asked, cells, columns)
        prompt, chosen, rejected = split_given(whole, asked, chosen, rejected)
    require_answers(fields, (chosen, rejected))
    return Row(place, messages=prompt, chosen=chosen, rejected=rejected, tools=tools)


def _two_answers(cells: Cells, columns: Columns, place: str) -> Row:
    both = columns["answer_a"], columns["answer_b"]
    field = columns["winner"]
    better = winner(cells[field], both, field)
    return _preference(cells, {**columns, "chosen": both[better], "rejected": both[1 - better]}, place)


def _reply(value: Any, field: str) -> tuple[Message, ...]:
    if isinstance(value, bool):
        raise bad_row(f"the field {field!r} is {str(value).lower()} where an answer belongs")
    return dialogue(value) or _turns(value, field, "assistant")


def _unpaired(cells: Cells, columns: Columns, place: str) -> Row:
    asked, answer = columns["prompt"], columns["completion"]
    if turns := dialogue(cells[asked]):
        reply = after_cue(_reply(cells[answer], answer))
        cells = {**cells, asked: list(without_cue(turns)), answer: list(reply)}
    return _judged(_prompt_completion(cells, columns, place), cells, columns)


def _rated(cells: Cells, columns: Columns, place: str) -> Row:
    return _judged(_messages(cells, columns, place), cells, columns)


def _judged(row: Row, cells: Cells, columns: Columns) -> Row:
    return replace(row, messages=judged(row.messages), label=_flag(cells, columns))


def _flag(cells: Cells, columns: Columns) -> bool:
    spelling = cell_text(cells[columns["label"]], columns["label"]).strip().lower()
    if spelling not in FLAGS:
        raise bad_row(
            f"the field {columns['label']!r} is {spelling!r}; it must be true or false (or 1 and 0, good and bad)"
        )
    return FLAGS[spelling]


def _tokens(cells: Cells, columns: Columns, place: str) -> Row:
    ids = _integers(cells[columns["input_ids"]], columns["input_ids"], lowest=0)
    labels = cells.get(columns["labels"]) if "labels" in columns else None
    targets = ids if labels is None else _integers(labels, columns["labels"], lowest=-100)
    if not ids:
        raise bad_row(f"the field {columns['input_ids']!r} is an empty list")
    if len(targets) != len(ids):
        raise bad_row(f"there are {len(ids)} input_ids but {len(targets)} labels; each token needs one label")
    return Row(place, input_ids=ids, labels=targets)


def _integers(value: Any, field: str, *, lowest: int) -> tuple[int, ...]:
    items = read_json_cell(value, field)
    if not isinstance(items, list):
        raise bad_row(f"the field {field!r} must be a list of token ids")
    try:
        numbers = tuple(int(item) for item in items if not isinstance(item, bool | float))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != len(items) or min(numbers, default=0) < lowest or max(numbers, default=0) >= 2**31:
        raise bad_row(f"the field {field!r} holds something that is not a token id")
    return numbers


def _segments(cells: Cells, columns: Columns, place: str) -> Row:
    field = columns["segments"]
    items = read_json_cell(cells[field], field)
    if not isinstance(items, list) or not items or not all(isinstance(item, Mapping) for item in items):
        raise bad_row(f"the field {field!r} must be a list of objects with text and label")
    pieces = []
    for number, item in enumerate(items):
        text = cell_text(item.get("text"), f"{field}[{number}].text")
        pieces.append((text, _flag({"label": item.get("label")}, {"label": "label"})))
    return Row(place, segments=tuple(pieces))


def _turns(value: Any, field: str, role: str) -> tuple[Message, ...]:
    """Return the messages of a cell that holds one text or a list of messages."""
    given = as_given(value, field)
    if is_message(given):
        return (read_message(given, field),)
    if is_conversation(given):
        return read_messages(given, field)
    return ({"role": role, "content": cell_text(given, field)},)


def _with_system(messages: tuple[Message, ...], cells: Cells, columns: Columns) -> tuple[Message, ...]:
    system = _optional_text(cells, columns, "system")
    return ({"role": "system", "content": system}, *messages) if system else messages


def _tools(cells: Cells, columns: Columns) -> str | None:
    return _tool_list(cells.get(columns["tools"]), columns["tools"]) if "tools" in columns else None


def _tool_list(value: Any, field: str) -> str | None:
    """Return tools as one JSON string, each as ``{"type": "function", "function": {…}}``."""
    text = json_text(value, field)
    if text is None or not isinstance(tools := json.loads(text), list):
        return text
    return json.dumps([_tool(each) for each in tools], ensure_ascii=False)


def _tool(value: Any) -> Any:
    bare = isinstance(value, dict) and "name" in value and "function" not in value
    return {"type": "function", "function": value} if bare else value


def _optional_text(cells: Cells, columns: Columns, part: str) -> str:
    value = cells.get(columns[part]) if part in columns else None
    return cell_text(value, columns[part]) if value is not None else ""


_BUILDERS: Mapping[str, Callable[[Cells, Columns, str], Row]] = {
    "preference": _preference,
    "two answers": _two_answers,
    "unpaired preference": _unpaired,
    "rated messages": _rated,
    "messages": _messages,
    "tokens": _tokens,
    "segments": _segments,
    "alpaca": _alpaca,
    "prompt/completion": _prompt_completion,
    "text": _text,
    "prompt": _prompt,
}
