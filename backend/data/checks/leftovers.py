"""Checks 7, 16 and 17: leftovers of other programs in the texts: template markup, placeholders, HTML."""

from __future__ import annotations

import html
import re
from html.entities import html5

from backend.data.checks.base import Check
from backend.data.prose import map_prose, parts, prose
from backend.data.records import Row
from backend.data.texts import map_texts, prompt_text, texts, wanted

# As the model cards and template files of these formats write them: ChatML, Llama 2 to 4, Mistral, Gemma, Phi,
# Zephyr, DeepSeek, Command, Granite, GLM, gpt-oss, Alpaca, Vicuna, Guanaco, OpenChat, Anthropic's older prompts.
_MARKUP = re.compile(
    r"<\|[A-Za-z][\w▁ -]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>|"
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|gMASK)\]|<</?SYS>>|"
    r"</?s>|<(?:bos|eos|pad|unk|sop|eop)>|<(?:start|end)_of_turn>|"
    r"^#{2,3} ?(?:Instruction|Human|Assistant|User|System):|^#{2,3} ?(?:Response|Input|Output):[ \t]*$|"
    r"^GPT4 Correct (?:User|Assistant):",
    re.MULTILINE,
)
_SPEAKER = re.compile(r"^(?:Human|Assistant|USER|ASSISTANT): ", re.MULTILINE)
_DIALOGUE = re.compile(
    r"(?i)\b(?:dialogue|dialog|conversation|chat|script|interview|screenplay|transcript|scene)\b"
)
_DOUBLE_START = re.compile(r"^(?:<s>|<bos>|<\|begin_of_text\|>|<\|startoftext\|>|<｜begin▁of▁sentence｜>)")
_ABOUT_MARKUP = re.compile(r"(?i)\b(?:x?html5?|xml|css|svg|jsx|web ?pages?|tags?|entit(?:y|ies)|markup)\b")

_GAP = (
    r"(?:name|date|email|e-mail|address|phone|city|state|country|company|title|position|recipient|customer|client|"
    r"product|website|url|time|day|month|year|location|organi[sz]ation|school|university|department|manager|amount|"
    r"number|username|password|topic|age|role|subject)"
)
_KIND = (
    r"(?:first|last|full|user|company|customer|client|product|recipient|sender|your|job|contact|event|phone)"
)
_PLACEHOLDER = re.compile(
    r"(?<![\w$\\{])\{\{\s*[A-Za-z_][\w. ]{0,40}\}\}|"
    r"(?<![\w\])])\[(?i:your|insert|enter)\b[^\]\[\n]{0,60}\](?![(\[:])|"
    rf"(?<![\w\])])\[(?=[A-Z])(?i:(?:{_KIND}[ _'s]{{1,3}})?{_GAP}(?:[ _/](?:{_GAP}|here|of \w+)){{0,2}})\](?![(\[:])|"
    r"<(?i:your|insert|enter)\b[^<>\n]{0,60}>|"
    rf"(?<![\w/=.<-])<(?:{_KIND}[ _-]?)?{_GAP}>|"
    rf"(?<![\w$\\{{/\"'%(=])\{{(?:{_KIND}[ _]?)?{_GAP}\}}(?!\}})|"
    r"^\W{0,3}(?:TODO|FIXME|TBD)\b(?=\s*(?:[:.\])-]|$))|\[(?:TODO|TBD|FIXME)\b[^\]\n]{0,60}\]|"
    r"(?i:\blorem ipsum\b)|(?<![\w.])X{4,}+(?![\w.])",
    re.MULTILINE,
)
_PLACEHOLDER_MARKS = ("{", "[", "<", "TODO", "FIXME", "TBD", "XXXX", "orem")
_TAG = re.compile(
    r"</?(?:div|span|p|br|a|li|ul|td|tr|table|font|b|i|strong|em|img|h\d)(?:\s[^<>]{0,300})?/?>", re.I
)
_ENTITY = re.compile(r"&(?:[A-Za-z]{2,8}[0-9]{0,2}|#[0-9]{2,6}|#[xX][0-9A-Fa-f]{2,5});")
_BLOB = re.compile(r"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/=_-]{200,}+")
_ADDRESS = re.compile(r"\w{1,16}://\S++|\bdata:\S++")


def template_markup(row: Row) -> str | None:
    """Return where a message has chat-template markup, or a plain text begins with a start token; else None."""
    if row.text is not None:
        found = _DOUBLE_START.search(row.text)
        return f"the text begins with {found.group()}, which the tokenizer adds again" if found else None
    for number, message in enumerate(row.messages + row.chosen + row.rejected):
        if markup := _markup(message["content"], row):
            return f"message {number + 1} ({message['role']}) holds {markup!r}"
    return None


def _markup(text: str, row: Row) -> str:
    """Return the first markup in a text, or "".

    ``<s>`` in a row about HTML is struck text, and speakers' names in a dialogue are no markup.
    """
    for found in _MARKUP.finditer(text):
        if found.group() not in ("<s>", "</s>") or not about_markup(row):
            return found.group().strip()
    speaker = _SPEAKER.search(text)
    return speaker.group().strip() if speaker and not _DIALOGUE.search(prompt_text(row)) else ""


def about_markup(row: Row) -> bool:
    """Return whether a row is about markup, so that tags and entities in it may be meant."""
    return any(_ABOUT_MARKUP.search(text) for text in texts(row))


def unresolved_placeholder(row: Row) -> str | None:
    """Return the first placeholder outside of code, such as {{name}} or [Your Name]; else None."""
    for text in texts(wanted(row)):
        if not any(mark in text for mark in _PLACEHOLDER_MARKS) or "{%" in text:
            continue
        for found in _PLACEHOLDER.finditer(prose(text)):
            gap = found.group()
            if not (gap.startswith("<") and f"</{gap[1:]}" in text):
                return f"{gap.strip()!r} was never filled in"
    return None


def web_junk(row: Row) -> str | None:
    """Return HTML tags, entities or a very long string without spaces in a row not about markup; else None."""
    for text in texts(wanted(row)):
        tags = _TAG.findall(text) if "<" in text else []
        if len(tags) >= 3 and "```" not in text and not about_markup(row):
            return f"{len(tags)} HTML tags such as {tags[0]!r}"
        if "&" in text and (entity := _first_entity(text)) and not about_markup(row):
            return f"the HTML entity {entity!r}"
        if blob := _blob(text):
            return f"a string of {len(blob):,} characters without a space: {blob[:30]}…"
    return None


def _first_entity(text: str) -> str:
    found = (
        _is_entity(each) for part, is_prose in parts(text) if is_prose for each in _ENTITY.finditer(part)
    )
    return next(filter(None, found), "")


def _is_entity(found: re.Match[str]) -> str:
    """Return the matched text if it is an HTML entity, else ''."""
    return found.group() if found.group()[1] == "#" or found.group()[1:] in html5 else ""


def _blob(text: str) -> str:
    if not _BLOB.search(text):
        return ""
    found = (each.group() for each in _BLOB.finditer(_ADDRESS.sub(" ", text)))
    return next((each for each in found if each.strip("-=_+/")), "")  # a line of dashes is no blob


def unescape_entities(text: str) -> str:
    """Return the text with HTML entities that end with a semicolon as characters, in prose only."""
    return map_prose(text, lambda part: _ENTITY.sub(_character, part))


def _character(found: re.Match[str]) -> str:
    return html.unescape(_is_entity(found)) or found.group()


def unescape_row(row: Row) -> Row:
    """Return the row with its entities as characters, unless it is about markup."""
    return row if about_markup(row) else map_texts(row, unescape_entities)


LEFTOVER_CHECKS = (
    Check(
        7,
        "template-markup",
        "Texts hold chat-template markup",
        "block",
        "The model's own template adds this again; it then learns a broken conversation and answers with markup.",
        by_row=template_markup,
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
        chosen_up_to=0.0,
    ),
)
