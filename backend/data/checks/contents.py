"""Checks 4, 7, 11, 15, 16, 17 and 19: what stands in the texts themselves."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

import numpy as np

from backend.data.checks.base import Check, Example, Scan, given_answer
from backend.data.cleaning import is_damaged, text_hash
from backend.data.records import Row
from backend.data.store import chosen
from backend.data.texts import answers, prompt_text, texts
from backend.utils.text_utils import normalise, shorten

_NOTHING = {"na", "n/a", "nan", "none", "null", "nil", "undefined", "-", "?", "tbd"}
_MARKUP = re.compile(
    r"<\|(?:im_start|im_end|eot_id|end|user|assistant|system|start_header_id|end_header_id|begin_of_text|"
    r"endoftext|endofprompt)\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|"
    r"^#{2,3} ?(?:Response|Instruction|Human|Assistant):|^(?:Human|Assistant|USER|ASSISTANT): ",
    re.MULTILINE,
)
_DOUBLE_START = re.compile(r"^(?:<s>|<\|begin_of_text\|>|<\|startoftext\|>)")
_REFUSAL = re.compile(
    r"\bas an? (?:ai|large|artificial)[\w -]* (?:language )?(?:model|intelligence|assistant)\b|"
    r"\bi(?:'m| am) (?:just )?an ai\b|\bi(?:'m| am) sorry,? but i (?:can(?:no|')t|am unable)\b|"
    r"\bi (?:cannot|can't|can not|am unable to|am not able to) (?:assist|help|fulfil+|comply)\b|"
    r"\bmy (?:knowledge|training) cut-?off\b",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"\{\{\s*[\w.]+\s*\}\}|\[(?:YOUR|INSERT|ENTER|COMPANY|NAME|DATE|CITY)[ _A-Z]*\]|<(?:YOUR|INSERT)[ _A-Z]*>|"
    r"\bTODO\b|\bFIXME\b|\blorem ipsum\b|\bXXXX+\b",
)
_PLACEHOLDER_MARKS = ("{{", "[", "<", "TODO", "FIXME", "lorem", "XXXX")
_TAG = re.compile(
    r"</?(?:div|span|p|br|a|li|ul|td|tr|table|font|b|i|strong|em|img|h\d)(?:\s[^<>]{0,300})?/?>", re.I
)
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|nbsp|apos|#\d{2,5});")
_BLOB = re.compile(r"[A-Za-z0-9+/=_-]{200,}")
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


def empty_answer(row: Row) -> str | None:
    """Why the row teaches nothing: no answer, or only white space."""
    if row.input_ids or row.segments:
        return None
    found = answers(row)
    if not found:
        return "there is no assistant message that is trained"
    blank = [number for number, answer in enumerate(found) if not answer.strip()]
    calls = any(message.get("tool_calls") for message in row.messages)
    return None if not blank or calls else f"the answer is {json.dumps(found[blank[0]])}"


def placeholder_answer(row: Row) -> str | None:
    """An answer that only says that there is none, such as NA or null."""
    for answer in answers(row):
        if answer.strip().lower() in _NOTHING:
            return f"the answer is {answer.strip()!r}"
    return None


def template_markup(row: Row) -> str | None:
    """Markup of a chat template inside the words of a row, or a start token before a plain text."""
    if row.text is not None:
        found = _DOUBLE_START.search(row.text)
        return f"the text begins with {found.group()}, which the tokenizer adds again" if found else None
    for number, message in enumerate(row.messages + row.chosen + row.rejected):
        if found := _MARKUP.search(message["content"]):
            return f"message {number + 1} ({message['role']}) holds {found.group().strip()!r}"
    return None


def damaged_text(row: Row) -> str | None:
    """Mojibake, replacement characters, NUL or a byte-order mark in a row."""
    for text in texts(row):
        if is_damaged(text):
            return f"damaged characters in: {shorten(text, 80)}"
    return None


def refusal(row: Row) -> str | None:
    """An answer that refuses or speaks of itself as a language model."""
    for answer in answers(row):
        if found := _REFUSAL.search(answer):
            return f"the answer says {found.group()!r}"
    return None


def same_opening(scan: Scan) -> Iterator[Example]:
    """Answers that open with the same eight words as more than a twentieth of the others (and ten of them)."""
    if scan.labels:
        return
    hashes = np.fromiter((text_hash(_opening(row)) for row in scan.rows), np.uint64)
    kinds, kind_of, times = np.unique(hashes, return_inverse=True, return_counts=True)
    common = (kinds != text_hash("")) & (times >= max(10, len(scan.rows) / 20))
    found = np.flatnonzero(common[kind_of])
    for row, count in zip(chosen(scan.rows, found), times[kind_of[found]].tolist(), strict=True):
        yield Example(row.place, f"one of {count} answers that begin with {_opening(row)!r}")


def _opening(row: Row) -> str:
    """The first eight words of an answer that has more; '' for others."""
    words = normalise(given_answer(row)).split(" ", 8)
    return " ".join(words[:8]) if len(words) > 8 else ""


def unresolved_placeholder(row: Row) -> str | None:
    """A gap that was never filled in, such as {{name}} or [YOUR NAME]."""
    for text in texts(row):
        if any(mark in text for mark in _PLACEHOLDER_MARKS) and (found := _PLACEHOLDER.search(text)):
            return f"{found.group()!r} was never filled in"
    return None


def web_junk(row: Row) -> str | None:
    """HTML tags, entities or very long strings without a space."""
    for text in texts(row):
        tags = _TAG.findall(text)
        if len(tags) >= 3 and "```" not in text:
            return f"{len(tags)} HTML tags such as {_TAG.search(text).group()!r}"  # type: ignore[union-attr]
        if found := _ENTITY.search(text):
            return f"the HTML entity {found.group()!r}"
        if found := _BLOB.search(text):
            return f"a string of {len(found.group()):,} characters without a space: {found.group()[:30]}…"
    return None


def mixed_scripts(scan: Scan) -> Iterator[Example]:
    """Rows written in another script than nine tenths of the others."""
    spoken = given_answer if any(map(given_answer, scan.rows)) else prompt_text
    scripts = [script_of(spoken(row)) for row in scan.rows]
    times = Counter(script for script in scripts if script)
    if len(times) < 2:
        return
    main, count = times.most_common(1)[0]
    if count < 0.9 * sum(times.values()):
        main = ""
    found = [number for number, script in enumerate(scripts) if script and script != main]
    for row, number in zip(chosen(scan.rows, np.asarray(found, np.int64)), found, strict=True):
        script = scripts[number]
        yield Example(row.place, f"written in {_SCRIPT_NAMES.get(script, script.title())} letters")


def script_of(text: str) -> str:
    """The script that most letters of a text belong to, in capitals; '' when it has fewer than five letters.

    Kana and the Chinese characters beside them count as Japanese.
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
    ),
    Check(
        4,
        "missing-answers",
        "Answers only say that there is none",
        "warn",
        "NA, None or null usually come from an empty cell; the model learns to say them.",
        by_row=placeholder_answer,
    ),
    Check(
        7,
        "template-markup",
        "Texts hold chat-template markup",
        "block",
        "The model's own template adds this again; it then learns a broken conversation and answers with markup.",
        by_row=template_markup,
    ),
    Check(
        11,
        "damaged-text",
        "Texts are damaged",
        "warn",
        "The model learns the damaged characters as if they were meant.",
        by_row=damaged_text,
        fix="repair-text",
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
        16,
        "placeholders",
        "Placeholders were never filled in",
        "warn",
        "The model learns to write the placeholder itself.",
        by_row=unresolved_placeholder,
    ),
    Check(
        17,
        "web-junk",
        "Texts hold HTML, entities or blobs",
        "warn",
        "They use up tokens and come back in the answers.",
        by_row=web_junk,
        fix="unescape-html",
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
