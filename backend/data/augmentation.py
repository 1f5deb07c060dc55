"""Variations of training rows, all off by default, for the training side of a split only.

What a row becomes depends on (seed, epoch, index) alone, so that any epoch can be made again. Answers, code,
numbers and addresses are never touched, and each row keeps its place. How much of what is a matter of
``AugmentationConfig``.
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
    """Return whether rows may differ from epoch to epoch; repeats and paraphrases are rows like all others."""
    chances = (augmentation.noise, augmentation.typos, augmentation.drop_system, augmentation.sub_turns)
    return augmentation.share > 0 and (bool(augmentation.prompt_templates) or any(chances))


def augment(row: Row, augmentation: AugmentationConfig, *, seed: int, epoch: int, index: int) -> Row:
    """The row varied for one sample of one epoch; the very same object when nothing was varied."""
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
    """The rows that change in an epoch, before and after."""
    pairs = (
        Pair(row, augment(row, augmentation, seed=seed, epoch=epoch, index=index))
        for index, row in enumerate(rows)
    )
    return [pair for pair in pairs if pair.after is not pair.before]


def oversample(rows: Sequence[Row], cap: float) -> Sequence[Row]:
    """The rows with those of rare answers repeated, each at most ``cap`` times (1 to 3), towards the most common.

    The rows given come first and unchanged; repeats follow.
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
    """The text with, each by ``probability``: no capitals, no end mark, a doubled space. Code is left alone."""
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
    """The text with typing mistakes, by ``probability`` per letter.

    Only plain lower-case words of four letters and more are touched, one mistake each at most: numbers, names,
    addresses, code and the first letter of a word stay.
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
    """The messages with the first user turn put into the template."""
    first = next((number for number, message in enumerate(messages) if message["role"] == "user"), None)
    if first is None:
        return messages
    content = template.replace("{prompt}", messages[first]["content"])
    return (*messages[:first], {**messages[first], "content": content}, *messages[first + 1 :])


def _shorter(messages: tuple[Message, ...], chance: random.Random) -> tuple[Message, ...]:
    """The messages up to an earlier trained answer, when there is one."""
    ends = [
        number + 1
        for number, message in enumerate(messages)
        if message["role"] == "assistant" and message.get("trained", True) and not message.get("tool_calls")
    ]
    return messages[: chance.choice(ends[:-1])] if len(ends) > 1 else messages
