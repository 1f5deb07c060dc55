"""Faults to plant into clean rows, one kind for each check of the doctor: what ``doctor_table`` counts with.

A planter takes clean rows and dice and gives a ``Scan`` and the places of the rows it spoiled. Its faults come in
several shapes, easy and hard ones mixed. For findings about a set there is one place, ``SET``.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from backend.core.encoding.template_faults import template_faults
from backend.core.tokenizer import Encoded
from backend.data.checks import Scan
from backend.data.records import Message, Row
from backend.errors import DataError

SET = "the set"
PLANTED = 40
OPENING = "Sure, here is the answer that you were looking for:"
THINKS = (  # as Qwen 3's: every answer has a thinking block, be it empty
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and '</think>' not in m.content %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OPENS = (  # as DeepSeek's distilled models: it opens a block that only rows with reasoning go on with
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
SCRIPTS = [
    "покажи все файлы",
    "显示所有文件和目录",
    "δείξε όλα τα αρχεία",
    "すべてのファイルを表示",
    "اعرض كل الملفات",
    "모든 파일을 보여줘",
]
BROKEN = ['{"command": "ls"', '[{"a": 1}, {"b":', '["a", "b"', "Use this:\n```sh\nls -l", "{\"a\": 'b'}"]
_PLAIN_LINE = re.compile(r"[A-Za-z ,.'-]{30,}")
Planted = tuple[Scan, set[str]]
Planter = Callable[[list[Row], random.Random], Planted]


def said(row: Row, role: str) -> str:
    return next(str(message["content"]) for message in row.messages if message["role"] == role)


def with_text(row: Row, role: str, change: Callable[[str], str]) -> Row:
    """The row with the first message of a role changed."""
    place = next(number for number, message in enumerate(row.messages) if message["role"] == role)
    message: Message = {**row.messages[place], "content": change(str(row.messages[place]["content"]))}
    return replace(row, messages=(*row.messages[:place], message, *row.messages[place + 1 :]))


def changing(
    change: Callable[[Row, int, random.Random], Row],
    fits: Callable[[Row], bool] = bool,
    count: int = PLANTED,
) -> Planter:
    """A planter that changes some of the rows where they stand."""

    def plant(rows: list[Row], dice: random.Random) -> Planted:
        able = [number for number, row in enumerate(rows) if fits(row)]
        chosen = dice.sample(able, min(count, len(able)))
        spoiled = list(rows)
        for kind, number in enumerate(chosen):
            spoiled[number] = change(rows[number], kind, dice)
        return Scan(spoiled), {rows[number].place for number in chosen}

    return plant


def answering(texts: Sequence[str]) -> Planter:
    """Answers replaced by each of ``texts`` in turn."""
    return changing(
        lambda row, kind, _: with_text(row, "assistant", lambda _: texts[kind % len(texts)]),
        count=max(PLANTED, len(texts)),
    )


def asking(texts: Sequence[str]) -> Planter:
    """Questions replaced by each of ``texts`` in turn."""
    return changing(lambda row, kind, _: with_text(row, "user", lambda _: texts[kind % len(texts)]))


def inserting(texts: Sequence[str], role: str = "assistant", *, into_words: bool = False) -> Planter:
    """Each of ``texts`` in turn put between two words of a message; ``into_words``: of a line of plain words."""

    def change(row: Row, kind: int, dice: random.Random) -> Row:
        def put(text: str) -> str:
            lines = text.split("\n")
            able = (
                [number for number, line in enumerate(lines) if _PLAIN_LINE.fullmatch(line)]
                if into_words
                else []
            )
            number = dice.choice(able) if able else dice.randrange(len(lines))
            words = lines[number].split(" ")
            at = dice.randrange(len(words) + 1)
            lines[number] = " ".join([*words[:at], texts[kind % len(texts)], *words[at:]])
            return "\n".join(lines)

        return with_text(row, role, put)

    return changing(change, has_words if into_words else bool, max(PLANTED, len(texts)))


def has_words(row: Row) -> bool:
    return any(_PLAIN_LINE.fullmatch(line) for line in said(row, "assistant").split("\n"))


def added(make: Callable[[Row, int, random.Random], Row], fits: Callable[[Row], bool] = bool) -> Planter:
    """A planter that adds spoiled variants of some rows at the end."""

    def plant(rows: list[Row], dice: random.Random) -> Planted:
        chosen = dice.sample([row for row in rows if fits(row)], PLANTED)
        new = [replace(make(row, kind, dice), place=f"planted:{kind + 1}") for kind, row in enumerate(chosen)]
        return Scan([*rows, *new]), {row.place for row in new}

    return plant


def leaking(make: Callable[[Row, int, random.Random], Row], fits: Callable[[Row], bool] = bool) -> Planter:
    """Variants of some training rows stand among held-out rows that are taken from the same source."""

    def plant(rows: list[Row], dice: random.Random) -> Planted:
        shuffled = dice.sample(rows, len(rows))
        held, train = shuffled[: len(rows) // 10], shuffled[len(rows) // 10 :]
        chosen = dice.sample([row for row in train if fits(row)], PLANTED)
        copies = [
            replace(make(row, kind, dice), place=f"planted:{kind + 1}") for kind, row in enumerate(chosen)
        ]
        return Scan(train, [*held, *copies]), {row.place for row in chosen}

    return plant


def encoded(spoil: Callable[[Encoded, int], Encoded], encode: Callable[[Row], Encoded]) -> Planter:
    """Some rows reach the model spoiled: what a wrong template or mask does."""

    def plant(rows: list[Row], dice: random.Random) -> Planted:
        chosen = {row.place: kind for kind, row in enumerate(dice.sample(rows, PLANTED))}

        def spoiling(row: Row) -> Encoded:
            plain = encode(row)
            return spoil(plain, chosen[row.place]) if row.place in chosen else plain

        return Scan(rows, encode=spoiling, end_ids=frozenset({encode(rows[0]).input_ids[-1]})), set(chosen)

    return plant


def whole(spoil: Callable[[list[Row], random.Random], list[Row]]) -> Planter:
    """A fault of the set as a whole."""
    return lambda rows, dice: (Scan(spoil(rows, dice)), {SET})


# --- the shapes of single faults -----------------------------------------------------------------------------


def another_case(row: Row, kind: int, _: random.Random) -> Row:
    ways = (str, str.upper, str.lower, lambda text: f"  {text} ", lambda text: text.rstrip(".?!") + "!")
    return with_text(row, "user", ways[kind % len(ways)])


def asked_otherwise(row: Row, _: int, __: random.Random) -> Row:
    """The same question in other words."""
    return with_text(
        row, "user", lambda text: f"Tell me about {text.split()[2]}: what is its use, and how is it called?"
    )


def said_alike(row: Row, kind: int, dice: random.Random) -> Row:
    """The row in another case or spacing, or one word shorter."""
    return another_case(row, kind // 2 % 4 + 1, dice) if kind % 2 else one_word_less(row, kind, dice)


def same_answers(rows: list[Row], _: random.Random) -> list[Row]:
    return [with_text(row, "assistant", lambda _: said(rows[0], "assistant")) for row in rows]


def swapped(rows: list[Row], _: random.Random) -> list[Row]:
    sides = ((row, said(row, "user"), said(row, "assistant")) for row in rows)
    return [
        with_text(with_text(row, "user", lambda _, to=answer: to), "assistant", lambda _, to=asked: to)  # type: ignore[misc]
        for row, asked, answer in sides
    ]


def untrainable(row: Row, kind: int, _: random.Random) -> Row:
    if kind % 2:
        return replace(row, label=True)
    return replace(row, messages=row.messages[:1], chosen=row.messages[-1:], rejected=row.messages[:1])


def one_word_less(row: Row, _: int, dice: random.Random) -> Row:
    def drop(text: str) -> str:
        words = text.split()
        at = dice.randrange(len(words) // 2, len(words))
        return " ".join([*words[:at], *words[at + 1 :]])

    return with_text(row, "assistant", drop)


def very_long_row(row: Row) -> bool:
    return len(said(row, "assistant").split()) >= 100


def nearly_the_same(row: Row, kind: int, dice: random.Random) -> Row:
    return one_word_less(with_text(row, "user", lambda text: f"{text} Tell me."), kind, dice)


def long_row(row: Row) -> bool:
    return len(said(row, "assistant").split()) >= 60


def prose(row: Row) -> bool:
    text = said(row, "assistant")
    return len(text.split()) >= 30 and text.rstrip().endswith(".")


def cut_off(row: Row, _: int, dice: random.Random) -> Row:
    """The answer up to a lower-case word that another one follows, 15 words from its beginning or later."""

    def cut(text: str) -> str:
        words = list(re.finditer(r"\S+", text))
        places = [
            word.end()
            for word, follower in pairwise(words[14:])
            if word.group().isalpha() and word.group().islower() and follower.group()[:1].islower()
        ]
        return text[: dice.choice(places or [words[14].end()])]

    return with_text(row, "assistant", cut)


def out_of_turn(row: Row, kind: int, _: random.Random) -> Row:
    asked, answer = row.messages[0], row.messages[-1]
    system = {"role": "system", "content": "Be brief."}
    ways = (
        (answer, asked),
        (asked, asked, answer),
        (asked, answer, answer),
        (asked, answer, asked),
        (asked, system, answer),
        (answer,),
        (asked,),
    )
    return replace(row, messages=ways[kind % len(ways)])


def mojibake(row: Row, kind: int, _: random.Random) -> Row:
    ways = (
        lambda text: text + " " + "déjà vu, naïve café".encode().decode("latin-1"),
        lambda text: text + " " + "“quoted” – it’s".encode().decode("cp1252", errors="replace"),
        lambda text: text[: len(text) // 2] + "\ufffd" + text[len(text) // 2 :],
        lambda text: text[: len(text) // 2] + "\x00" + text[len(text) // 2 :],
        lambda text: "\ufeff" + text,
    )
    return with_text(row, "assistant", ways[kind % len(ways)])


def misspelt_label(row: Row, kind: int, dice: random.Random) -> Row:
    def typo(text: str) -> str:
        at = dice.randrange(1, len(text) - 1)
        return text[:at] + text[at + 1 :]

    ways = (str.upper, str.lower, lambda text: f"{text} ", lambda text: f"{text}.", typo)
    return with_text(row, "assistant", ways[kind % len(ways)])


def answer_told(row: Row, kind: int, _: random.Random) -> Row:
    answer = said(row, "assistant")
    return with_text(row, "user", lambda text: f"{answer}: {text}" if kind % 2 else f"{text} ({answer})")


def opened(row: Row, _: int, __: random.Random) -> Row:
    return with_text(row, "assistant", lambda text: f"{OPENING} {text}")


def rare_labels(rows: list[Row], _: random.Random) -> list[Row]:
    return [*rows, *(with_text(row, "assistant", lambda _: "Rare label") for row in rows[:3])]


def one_label_everywhere(rows: list[Row], _: random.Random) -> list[Row]:
    label = said(rows[0], "assistant")
    return [*rows, *[row for row in rows if said(row, "assistant") == label] * 20]


def tool_row(row: Row, kind: int, *, sound: bool) -> Row:
    """A made-up call of a tool around a real question: sound, or broken in one of four ways."""
    tools = [{"type": "function", "function": {"name": "run", "parameters": {}}}]
    ways = (
        ("run", '{"command": "ls"', "c1"),
        ("ran", '{"command": "ls"}', "c1"),
        ("run", '{"command": "ls"}', "c2"),
        ("run", "command: ls", "c1"),
    )
    name, arguments, answered = ("run", '{"command": "ls"}', "c1") if sound else ways[kind % len(ways)]
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    messages = (
        row.messages[0],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "done", "tool_call_id": answered},
        row.messages[-1],
    )
    return replace(row, messages=messages, tools=json.dumps(tools))


def tool_rows(rows: list[Row], dice: random.Random) -> Planted:
    chosen = {row.place: kind for kind, row in enumerate(dice.sample(rows, PLANTED))}
    made = [tool_row(row, chosen.get(row.place, 0), sound=row.place not in chosen) for row in rows]
    return Scan(made), set(chosen)


def preferences(rows: Sequence[Row], dice: random.Random) -> list[Row]:
    """Preference rows: the answer of the row is preferred to that of another one."""
    others = dice.sample(rows, len(rows))
    return [
        replace(row, messages=row.messages[:1], chosen=row.messages[-1:], rejected=other.messages[-1:])
        for row, other in zip(rows, others, strict=True)
        if said(row, "assistant") != said(other, "assistant")
    ]


def pairs_changed(
    change: Callable[[Row, int, random.Random], Row],
    fits: Callable[[Row], bool] = bool,
    rows_of: int | None = None,
) -> Planter:
    """A planter that changes some of the pairs made of rows that fit; ``rows_of`` of them, or all."""

    def plant(rows: list[Row], dice: random.Random) -> Planted:
        made = preferences([row for row in rows if fits(row)][:rows_of], dice)
        return changing(change)(made, dice)

    return plant


def replied(row: Row, chosen: str, rejected: str) -> Row:
    """A pair with other answers."""
    replies = (({"role": "assistant", "content": text},) for text in (chosen, rejected))
    return replace(row, chosen=next(replies), rejected=next(replies))


def equal(row: Row, kind: int, _: random.Random) -> Row:
    """Answers that are equal, but for spacing or an end token in some kinds."""
    text = str(row.chosen[0]["content"])
    ways = (text, f"{text} \n", f" {text}", f"{text}<|im_end|>", f"{text}</s>", text.replace(". ", ".  "))
    return replied(row, text, ways[kind % len(ways)])


def promptless(row: Row, kind: int, _: random.Random) -> Row:
    return replace(row, messages=((), ({"role": "user", "content": " "},))[kind % 2])


def prompted_again(row: Row, kind: int, _: random.Random) -> Row:
    """Answers that begin with the prompt, as texts for tools that take them whole; in some kinds a judged row."""
    asked = said(row, "user")
    texts = [
        f"{asked}{(' ', chr(10), chr(10) * 2)[kind % 3]}{reply[0]['content']}"
        for reply in (row.chosen, row.rejected)
    ]
    if kind % 4:
        return replied(row, *texts)
    answer = {"role": "assistant", "content": texts[0]}
    return replace(row, messages=(*row.messages, answer), chosen=(), rejected=(), label=True)


def contradicted(rows: list[Row], dice: random.Random) -> Planted:
    """Pairs of which another says the opposite, and judged answers with both ratings."""
    made = preferences(rows, dice)
    chosen = dice.sample(made, PLANTED // 2)
    new = [
        replace(row, chosen=row.rejected, rejected=row.chosen, place=f"planted:{row.place}")
        for row in chosen[::2]
    ]
    for row in chosen[1::2]:
        good = replace(row, messages=(*row.messages, *row.chosen), chosen=(), rejected=(), label=True)
        new += [replace(good, place=f"{flag}:{row.place}", label=flag) for flag in (True, False)]
    return Scan([*made, *new]), {row.place for row in (*chosen[::2], *new)}


def cut_reply(row: Row, kind: int, dice: random.Random) -> Row:
    """A pair whose rejected answer is cut off at some word, or empty."""
    whole = replace(row, messages=(*row.messages, *row.rejected))
    text = said(cut_off(whole, kind, dice), "assistant") if kind % 10 else ""
    return replied(row, str(row.chosen[0]["content"]), text)


def no_room(encode: Callable[[Row], Encoded]) -> Planter:
    """Prompts that are longer than what fits, beside answers that are."""

    def plant(rows: list[Row], dice: random.Random) -> Planted:
        longest = max(len(encode(row).input_ids) for row in rows)
        change = changing(lambda row, _, __: with_text(row, "user", lambda text: f"{text} " * longest))
        scan, places = change(rows, dice)
        others = dice.sample([row.place for row in scan.rows if row.place not in places], PLANTED)
        long = [
            with_text(row, "assistant", lambda text: f"{text} " * longest) if row.place in others else row
            for row in scan.rows
        ]
        return replace(scan, rows=long, encode=encode, max_length=longest), places

    return plant


def of_a_run(plant: Planter, method: str) -> Planter:
    """What a planter gives, for a run with a method."""

    def planted(rows: list[Row], dice: random.Random) -> Planted:
        scan, places = plant(rows, dice)
        return replace(scan, method=method), places

    return planted


def always_longer(rows: list[Row], dice: random.Random) -> list[Row]:
    return [
        replace(row, rejected=({"role": "assistant", "content": str(row.chosen[0]["content"])[:-2]},))
        for row in preferences(rows, dice)
    ]


def rated(rows: Sequence[Row], good: float, dice: random.Random) -> list[Row]:
    return [replace(row, label=dice.random() < good) for row in rows]


def refusing(encode: Callable[[Row], Encoded]) -> Planter:
    """Rows that a template refuses: half a character, which has no ids."""

    def plant(rows: list[Row], dice: random.Random) -> Planted:
        scan, places = inserting(["\ud83d"], "user")(rows, dice)
        return replace(scan, encode=encode), places

    return plant


def looked_at(plant: Planter, tokenizer: PreTrainedTokenizerBase) -> Planter:
    """What a planter gives, to be looked at with a template."""

    def look(rows: list[Row], dice: random.Random) -> Planted:
        scan, places = plant(rows, dice)
        return replace(scan, look=template_faults(tokenizer)), places

    return look


def with_more(row: Row, kind: int, _: random.Random) -> Row:
    """A row with a part that many templates do not print."""
    tools = json.dumps([{"type": "function", "function": {"name": "clock", "parameters": {}}}])
    key = ("reasoning_content", "thinking", "")[kind % 3]
    answer: Message = {**row.messages[-1], key: "First I think."} if key else row.messages[-1]
    return replace(row, messages=(*row.messages[:-1], answer), tools=None if key else tools)


def thoughtless(rows: list[Row], dice: random.Random) -> Planted:
    """Some answers without the reasoning that all others begin with."""
    thought = [with_text(row, "assistant", lambda text: f"<think>\nSo.\n</think>\n\n{text}") for row in rows]
    chosen = set(dice.sample(range(len(rows)), PLANTED))
    spoiled = [rows[number] if number in chosen else row for number, row in enumerate(thought)]
    return Scan(spoiled), {rows[number].place for number in chosen}


def too_long(encode: Callable[[Row], Encoded]) -> Planter:
    def plant(rows: list[Row], dice: random.Random) -> Planted:
        longest = max(len(encode(row).input_ids) for row in rows)
        change = changing(lambda row, _, __: with_text(row, "user", lambda text: f"{text} " * (longest // 2)))
        scan, places = change(rows, dice)
        return replace(scan, encode=encode, max_length=longest), places

    return plant


def spoil_mask(plain: Encoded, kind: int) -> Encoded:
    return Encoded(plain.input_ids, [bool(kind % 2)] * len(plain.input_ids))


def spoil_end(plain: Encoded, kind: int) -> Encoded:
    if kind % 2:
        return Encoded(plain.input_ids[:-1], plain.trained[:-1])
    return Encoded(plain.input_ids, [*plain.trained[:-1], False])


def guarded(encode: Callable[[Row], Encoded]) -> Callable[[Row], Encoded]:
    """``encode`` with its errors as the doctor expects them."""

    def guarded_encode(row: Row) -> Encoded:
        try:
            return encode(row)
        except UnicodeEncodeError as error:
            raise DataError("not Unicode", remedy="Mend it.", code="not-unicode") from error

    return guarded_encode
