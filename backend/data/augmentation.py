"""Vary training rows; everything is off by default (``AugmentationConfig``) and held-out rows are never varied.

A variation depends on (seed, epoch, index) alone, so that a resumed run repeats it. Answers, code, numbers and
addresses are never changed, and each row keeps its place.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xxhash

from backend.data.records import Message, Row
from backend.data.store import rows_at
from backend.data.texts import answer_text
from backend.run.config import AugmentationConfig

# Keys beside each other on a QWERTY keyboard.
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {
    key: "".join(row[max(0, place - 1) : place] + row[place + 1 : place + 2])
    for row in _ROWS
    for place, key in enumerate(row)
}
_WORD = re.compile(r"\S+")
_PLAIN_WORD = re.compile(r"[a-z]{4,}[.,;:!?]?", re.ASCII)
_CODE = re.compile(
    r"```|^[ \t]*+[\[{<$#]|[{};][ \t]*+$|\w\([^()\n]*+\)|(?<!\w)--?\w++=|(?:^|\s)[~.]?/\w", re.MULTILINE
)


@dataclass(frozen=True)
class Pair:
    """One row before and after."""

    before: Row
    after: Row


def varies(augmentation: AugmentationConfig) -> bool:
    """Return whether rows differ from epoch to epoch; oversampling and paraphrases add rows that stay the same."""
    chances = (augmentation.noise, augmentation.typos, augmentation.drop_system, augmentation.sub_turns)
    return augmentation.share > 0 and (bool(augmentation.prompt_templates) or any(chances))


def augment(row: Row, augmentation: AugmentationConfig, *, seed: int, epoch: int, index: int) -> Row:
    """Return the row as varied in one epoch; the same object if nothing changed."""
    if not row.messages or not varies(augmentation):
        return row
    chance = random.Random(xxhash.xxh64_intdigest(f"{seed}:{epoch}:{index}".encode()))  # noqa: S311  # no secret
    if chance.random() >= augmentation.share:
        return row
    messages = row.messages
    if chance.random() < augmentation.sub_turns:
        messages = _shorter(messages, chance)
    if chance.random() < augmentation.drop_system and messages[0]["role"] == "system":
        messages = messages[1:]
    if augmentation.prompt_templates:
        messages = _phrased(messages, chance.choice(("{prompt}", *augmentation.prompt_templates)))
    if augmentation.noise:
        messages = _user_turns(messages, lambda text: add_noise(text, augmentation.noise, chance))
    if augmentation.typos:
        messages = _user_turns(messages, lambda text: add_typos(text, augmentation.typos, chance))
    return row if messages == row.messages else replace(row, messages=messages)


def varied_pairs(
    rows: Sequence[Row], augmentation: AugmentationConfig, *, seed: int, epoch: int = 0
) -> list[Pair]:
    """Return the rows that change in an epoch, before and after."""
    pairs = (
        Pair(row, augment(row, augmentation, seed=seed, epoch=epoch, index=index))
        for index, row in enumerate(rows)
    )
    return [pair for pair in pairs if pair.after is not pair.before]


def oversample(rows: Sequence[Row], cap: float) -> Sequence[Row]:
    """Return the rows, followed by repeats of those with rare answers, up to the count of the most common answer.

    ``cap`` (1 to 3): the rows of an answer grow at most to ``cap`` times their number.
    """
    if cap == 1:
        return rows
    classes: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        classes[answer_text(row)].append(number)
    largest = max(map(len, classes.values()), default=0)
    repeats: list[int] = []
    for members in classes.values():
        wanted = min(largest, int(len(members) * cap)) - len(members)
        repeats += [members[number % len(members)] for number in range(wanted)]
    return rows_at(rows, np.asarray([*range(len(rows)), *repeats], np.int64))


def add_noise(text: str, probability: float, chance: random.Random) -> str:
    """Return the text, each with ``probability``: in lower case, without end mark, with a double space; no code."""
    if _CODE.search(text):
        return text
    if chance.random() < probability:
        text = _WORD.sub(
            lambda found: found.group().lower() if found.group().isalpha() else found.group(), text
        )
    if chance.random() < probability:
        text = text.rstrip(".!?")
    if chance.random() < probability and " " in text:
        places = [place for place, character in enumerate(text) if character == " "]
        place = chance.choice(places)
        text = text[:place] + " " + text[place:]
    return text


def add_typos(text: str, probability: float, chance: random.Random) -> str:
    """Return the text with typing mistakes, with ``probability`` per letter.

    Only plain lower-case words of four letters or more get one, and never at their first letter; numbers, names,
    addresses and code stay.
    """
    if _CODE.search(text):
        return text

    def mistyped(found: re.Match[str]) -> str:
        word = found.group()
        if not _PLAIN_WORD.fullmatch(word):
            return word
        letters = len(word.rstrip(".,;:!?"))
        for place in range(1, letters):
            if chance.random() < probability:
                return _mistake(word, place, letters, chance)
        return word

    return _WORD.sub(mistyped, text)


def _mistake(word: str, place: int, letters: int, chance: random.Random) -> str:
    kind = chance.choice(("neighbour", "swap", "drop", "double"))
    if kind == "swap" and place + 1 < letters:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if kind == "drop":
        return word[:place] + word[place + 1 :]
    if kind == "double":
        return word[:place] + word[place] + word[place:]
    return word[:place] + chance.choice(_NEIGHBOURS[word[place]]) + word[place + 1 :]


def _user_turns(messages: tuple[Message, ...], change: Callable[[str], str]) -> tuple[Message, ...]:
    return tuple(
        {**message, "content": change(message["content"])} if message["role"] == "user" else message
        for message in messages
    )


def _phrased(messages: tuple[Message, ...], template: str) -> tuple[Message, ...]:
    """Return the messages with the first user message put into the template."""
    first = next((number for number, message in enumerate(messages) if message["role"] == "user"), None)
    if first is None:
        return messages
    content = template.replace("{prompt}", messages[first]["content"])
    return (*messages[:first], {**messages[first], "content": content}, *messages[first + 1 :])


def _shorter(messages: tuple[Message, ...], chance: random.Random) -> tuple[Message, ...]:
    """Return the messages up to an earlier trained answer, chosen at random, if there is one."""
    ends = [
        number + 1
        for number, message in enumerate(messages)
        if message["role"] == "assistant" and message.get("trained", True) and not message.get("tool_calls")
    ]
    return messages[: chance.choice(ends[:-1])] if len(ends) > 1 else messages
