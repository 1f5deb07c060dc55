"""Checks 4, 11, 15 and 19: empty, damaged, refusing, repetitive and foreign texts."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

import numpy as np

from backend.data.checks.base import Check, Example, Scan
from backend.data.cleaning import is_damaged, text_hash
from backend.data.records import Message, Row
from backend.data.store import rows_at
from backend.data.texts import answers, is_trained, prompt_messages, prompt_text, texts
from backend.utils.text_utils import is_blank, normalise, shorten

_NOTHING = {"na", "n/a", "nan", "none", "null", "nil", "undefined", "-", "?", "tbd"}
_I = r"\bi(?:'m| am| ?am)"
_CANNOT = r"(?:can(?:no|')?t|can not|won't|will not|(?:'m| am) (?:unable|not able|not allowed) to)"
_REFUSAL = re.compile(
    r"\bas an? (?:(?:large |artificial |text-based |virtual |conversational |generative )*"
    r"(?:ai|language model|artificial intelligence)|(?:large |artificial )[\w -]{0,30}(?:model|intelligence))"
    r"(?! ?(?:engineer|researcher|student|company|startup|team|expert|product))\b|"
    rf"{_I} (?:just |only |merely )?(?:an ai\b(?! (?:engineer|researcher|student|startup|expert|assistant (?:named|"
    r"called|made|built|developed|created|trained|for|from|by|who|that)))|a (?:large )?language model\b)|"
    rf"\b(?:sorry|apologi[sz]e|afraid|regret),?(?: but)?(?: that)? i ?{_CANNOT}\b|"
    rf"\bi ?{_CANNOT} (?:assist|help|fulfil+|comply|provide|support|engage|participate|discuss|answer|create|generate"
    r"|do that|continue)\b(?! (?:but|it|laughing|myself))|"
    r"\b(?:it (?:is|would be) (?:not appropriate|inappropriate|unethical) (?:for me )?to|against my (?:programming|"
    r"guidelines|policy)|my (?:knowledge|training)(?: data)? (?:cut-?off|only goes)|i (?:do not|don't) have "
    r"(?:personal (?:opinions|experiences|feelings|beliefs|preferences)|access to real-time))\b",
    re.IGNORECASE,
)
COMMON_LABEL = 10
_SCRIPTS = (
    "LATIN",
    "CYRILLIC",
    "GREEK",
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "HANGUL",
    "ARABIC",
    "HEBREW",
    "DEVANAGARI",
    "THAI",
)
_SCRIPT_NAMES = {"CJK": "Chinese", "HANGUL": "Korean"}
_SCRIPT_CHARACTERS = 300


def is_blank_answer(message: Message) -> bool:
    """Return whether an assistant message is empty: no visible character, no tool call, no reasoning."""
    others = (message.get(key) for key in ("tool_calls", "reasoning_content", "thinking"))
    return is_blank(message["content"]) and not any(others)


def empty_answer(row: Row) -> str | None:
    """Return the reason if a row has no trained answer or an empty one, else None."""
    if row.input_ids or row.segments or row.label is False:  # an answer labelled as bad may be empty
        return None
    if row.text is not None:
        return f"the text is {shorten(json.dumps(row.text), 40)}" if is_blank(row.text) else None
    found = [message for message in row.chosen or row.messages if is_trained(message)]
    if not found:
        return "there is no assistant message that is trained"
    blank = next((message["content"] for message in found if is_blank_answer(message)), None)
    return None if blank is None else f"the answer is {shorten(json.dumps(blank), 40)}"


def empty_prompt(row: Row) -> str | None:
    """Return the reason if the question of a row has no visible character, else None."""
    questions = [message for message in prompt_messages(row) if message["role"] in ("user", "tool")]
    if not questions or row.chosen or not is_blank(questions[-1]["content"]):
        return None
    return f"the question is {shorten(json.dumps(questions[-1]['content']), 40)}"


def worded_answer(row: Row) -> str:
    """Return the texts of a row's answers without tool calls; '' for plain text."""
    return "\n".join(answers(row)) if row.text is None else ""


def missing_answers(scan: Scan) -> Iterator[Example]:
    """Yield rows whose answer only says that there is none, such as NA or null; not "none" as a common label."""
    classes = {label for label, count in Counter(scan.labels).items() if count >= COMMON_LABEL}
    for row in scan.rows:
        found = (answer.strip() for answer in answers(row) if answer.strip().lower() in _NOTHING)
        nothing = next((each for each in found if not (each.lower() == "none" and each in classes)), None)
        if nothing is not None:
            yield Example(row.place, f"the answer is {nothing!r}")


def damaged_text(row: Row) -> str | None:
    """Return the text with mojibake, replacement characters, NUL or a byte-order mark in a row; None without one."""
    for text in texts(row):
        if is_damaged(text):
            return f"damaged characters in: {shorten(text, 80)}"
    return None


def refusal(row: Row) -> str | None:
    """Return the words in which an answer refuses or calls itself a language model; None if none does."""
    for answer in answers(row):
        if found := _REFUSAL.search(answer.replace("’", "'")):
            return f"the answer says {found.group()!r}"
    return None


def same_opening(scan: Scan) -> Iterator[Example]:
    """Yield answers with the same first eight words as a twentieth of all rows or more, and at least ten."""
    if scan.labels:
        return
    hashes = np.fromiter((text_hash(_opening(row)) for row in scan.rows), np.uint64)
    kinds, kind_of, times = np.unique(hashes, return_inverse=True, return_counts=True)
    common = (kinds != text_hash("")) & (times >= max(10, len(scan.rows) / 20))
    found = np.flatnonzero(common[kind_of])
    for row, count in zip(rows_at(scan.rows, found), times[kind_of[found]].tolist(), strict=True):
        yield Example(row.place, f"one of {count} answers that begin with {_opening(row)!r}")


def _opening(row: Row) -> str:
    """Return the first eight words of an answer with more than eight; '' for a shorter one."""
    words = normalise(worded_answer(row)).split(" ", 8)
    return " ".join(words[:8]) if len(words) > 8 else ""


def mixed_scripts(scan: Scan) -> Iterator[Example]:
    """Yield rows in another script than nine tenths of the rows."""
    text_of = worded_answer if any(map(worded_answer, scan.rows)) else prompt_text
    scripts = [script_of(text_of(row)) for row in scan.rows]
    times = Counter(script for script in scripts if script)
    if len(times) < 2:
        return
    main, count = times.most_common(1)[0]
    if count < 0.9 * sum(times.values()):
        main = ""
    found = [number for number, script in enumerate(scripts) if script and script != main]
    for row, number in zip(rows_at(scan.rows, np.asarray(found, np.int64)), found, strict=True):
        script = scripts[number]
        yield Example(row.place, f"written in {_SCRIPT_NAMES.get(script, script.title())} letters")


def script_of(text: str) -> str:
    """Return the script of most letters of a text, in capitals; '' for fewer than five letters.

    Kana, and Chinese characters in a text with kana, count as Japanese.
    """
    sample = text[:_SCRIPT_CHARACTERS]
    if sample.isascii():
        return "LATIN" if sum(each.isalpha() for each in sample) >= 5 else ""
    letters = [unicodedata.name(each, "") for each in sample if each.isalpha()]
    found = Counter(script for name in letters for script in _SCRIPTS if name.startswith(script))
    if sum(found.values()) < 5:
        return ""
    kana = found["HIRAGANA"] + found["KATAKANA"]
    if kana:
        found["JAPANESE"] = kana + found["CJK"]
    return found.most_common(1)[0][0]


CONTENT_CHECKS = (
    Check(
        4,
        "empty-answers",
        "Answers are empty",
        "block",
        "Such a row teaches the model to say nothing.",
        by_row=empty_answer,
        fix="drop-empty",
        chosen_up_to=0.2,
    ),
    Check(
        4,
        "empty-prompts",
        "Questions are empty",
        "warn",
        "The model learns to say the answer to nothing. Look whether the right column was read.",
        by_row=empty_prompt,
        escalate=(0.2, "block"),
    ),
    Check(
        4,
        "missing-answers",
        "Answers only say that there is none",
        "warn",
        "NA, None or null usually come from an empty cell; the model learns to say them.",
        over_all=missing_answers,
    ),
    Check(
        11,
        "damaged-text",
        "Texts are damaged",
        "warn",
        "The model learns the damaged characters as if they were meant. If most rows are damaged, the file was read "
        "in the wrong encoding.",
        by_row=damaged_text,
        fix="repair-text",
        escalate=(0.2, "block"),
    ),
    Check(
        15,
        "refusals",
        "Answers refuse or speak as a language model",
        "info",
        "A small share of these is enough to make the model refuse in cases of its own.",
        by_row=refusal,
        escalate=(0.02, "warn"),
    ),
    Check(
        15,
        "same-opening",
        "Many answers open with the same words",
        "info",
        "The model learns this opening before anything else and puts it everywhere.",
        over_all=same_opening,
    ),
    Check(
        19,
        "mixed-scripts",
        "A few rows are in another script",
        "info",
        "A few rows in another language teach the model to switch at random; check that they are meant.",
        over_all=mixed_scripts,
    ),
)
