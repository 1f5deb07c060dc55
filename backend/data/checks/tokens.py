"""Checks 5, 6, 7 and 10: rows as the model sees them. All but the unfinished and broken answers need an encoder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from backend.data.checks.base import Check, EncodedRow, Example, Scan
from backend.data.records import Row
from backend.data.texts import answers
from backend.errors import TunesmithError
from backend.utils.text_utils import shorten

WRAPPED_CHARACTERS = 40
LONG_WORDS = 12
"""Shorter answers may end without an end mark."""

_FINAL = tuple(".!?…。！？)]}\"'`”’»*:;")
_LIST_ENTRY = re.compile(r"[*\w.]+ ?(?::|--?|–) ")
_SENTENCE_END = re.compile(r"""[\w)"'”’`][.!?…][)"'”’]*\s|[。！？]""")
_UNFINISHED = re.compile(
    r"(?i:an?|the|and|then|n?or|but|of|if|because|unless|whether|than|as|by|with|from|into|via|to|for|is|are|was|were|be|"
    r"which|whose|when|while|where|your|their|its|our|my|every|each|between|also|will|must|should|would|may|might|"
    r"has|having|being|been|does)|.*,"
)
_CODE = re.compile(r"[`(){}<>\[\]=_/\\|#$%&@*~+^]|\w\.\w")


def end_not_trained(scan: Scan) -> Iterator[Example]:
    """Yield rows in which an answer is trained without a token that ends the turn.

    A part of a turn, such as a tool call before its result, may end with another special token.
    """
    for row, encoded in _encoded(scan):
        runs = _trained_runs(encoded)
        if len(runs) == 1:  # a row trained as a whole may go on after its end tokens
            unended = runs if scan.end_ids.isdisjoint(runs[0]) else []
        else:
            between = scan.end_ids | scan.special_ids
            unended = [run for run in runs[:-1] if run[-1] not in between]
            unended += [run for run in runs[-1:] if run[-1] not in scan.end_ids]
        if unended:
            which = "the answer" if len(runs) == 1 else f"{len(unended):,} of {len(runs):,} answers"
            yield Example(row.place, f"no end token is trained after {which}")


def mask_wrong(scan: Scan) -> Iterator[Example]:
    """Yield rows in which nothing, or the result of a tool, is trained, and conversations trained as a whole."""
    for row, encoded in _encoded(scan):
        if not any(encoded.trained):
            yield Example(row.place, f"none of {len(encoded.input_ids):,} tokens is trained")
        elif all(encoded.trained) and len(row.messages) > 1:
            yield Example(row.place, f"all {len(encoded.input_ids):,} tokens are trained, the prompt too")
        elif result := _trained_result(row, encoded, scan):
            yield Example(row.place, f"what a tool answered is trained: {shorten(result, 60)}")


def not_rendered(scan: Scan) -> Iterator[Example]:
    """Yield rows that the model's chat template refuses."""
    for row, encoded in scan.encoded:
        if isinstance(encoded, TunesmithError):
            yield Example(row.place, shorten(encoded.message, 200))


def too_long(scan: Scan) -> Iterator[Example]:
    """Yield rows with more tokens than ``max_length``, longest first."""
    long = _long(scan)
    for row, encoded in sorted(long, key=lambda each: -len(each[1].input_ids)):
        yield Example(row.place, f"{len(encoded.input_ids):,} tokens, {scan.max_length:,} fit")


def no_room(scan: Scan) -> Iterator[Example]:
    """Yield rows whose prompt alone fills ``max_length``, longest first."""
    for row, encoded in sorted(_long(scan), key=lambda each: -len(each[1].input_ids)):
        if any(encoded.trained) and not any(encoded.trained[: scan.max_length]):
            prompt = list(encoded.trained).index(True)
            yield Example(row.place, f"the prompt alone has {prompt:,} tokens, {scan.max_length:,} fit")


def _long(scan: Scan) -> list[tuple[Row, EncodedRow]]:
    limit = scan.max_length
    return [each for each in _encoded(scan) if limit is not None and len(each[1].input_ids) > limit]


def long_rows(scan: Scan) -> str:
    """Return the options for rows that are too long, and how many rows each keeps."""
    long, limit = _long(scan), scan.max_length or 0
    seen = _rows(scan.encoded)
    about = "" if seen == len(scan.rows) else f" (sample: {seen:,} rows)"
    longest = max(len(encoded.input_ids) for _, encoded in long)
    answered = _rows([each for each in long if any(each[1].trained[1:limit])])
    return (
        f"{_rows(long):,} of {seen:,} rows are longer than {limit:,} tokens; the longest has {longest:,}{about}. "
        f"data.max_length {longest} keeps them whole; data.truncation drop keeps the other {seen - _rows(long):,}, "
        f"cut also the beginnings of {answered:,} answers."
    )


def _rows(encoded: Sequence[tuple[Row, object]]) -> int:
    """Return the number of rows; both sides of a pair are one."""
    return len({row.place for row, _ in encoded})


def _once(check: Callable[[Scan], Iterator[Example]]) -> Callable[[Scan], Iterator[Example]]:
    """Return the check so that it names a pair once, not for each of its sides."""

    def over_all(scan: Scan) -> Iterator[Example]:
        seen: set[str] = set()
        for example in check(scan):
            if example.place not in seen:
                seen.add(example.place)
                yield example

    return over_all


def unfinished(scan: Scan) -> Iterator[Example]:
    """Yield answers that end in mid-sentence if more than four fifths of the long ones do not."""
    long = 0
    cut: list[Example] = []
    for row in scan.rows:
        for text in answers(row):
            if len(text.split()) >= LONG_WORDS:
                long += 1
                if breaks_off(text):
                    cut.append(Example(row.place, f"the answer ends with {text.rstrip()[-40:]!r}"))
    if long >= 10 and len(cut) < 0.2 * long:
        yield from cut


def breaks_off(text: str) -> bool:
    """Return whether a text seems to end in mid-sentence.

    It does if its last word needs another one after it, or if it ends in prose without an end mark although its other
    sentences have one. Lists, code, headings and addresses need none.
    """
    last = _last_line(text)
    words = last.split()
    if not words or last.endswith(_FINAL):
        return False
    if _UNFINISHED.fullmatch(words[-1]):
        return True
    entry = not last.lstrip("\"'“‘(")[:1].isalnum() or _LIST_ENTRY.match(last)
    prose = len(words) >= 4 and (not entry or _SENTENCE_END.search(last))
    plain = not _CODE.search(" ".join(words[-2:])) and not words[-1][-1].isdigit()
    return bool(prose and plain and _SENTENCE_END.search(text))


def _last_line(text: str) -> str:
    """Return the last line, joined with the lines before it as far as the text was wrapped there."""
    lines = text.rstrip().split("\n")
    first = len(lines) - 1
    while first and len(lines[first - 1]) >= WRAPPED_CHARACTERS and _goes_on(lines[first]):
        first -= 1
    return " ".join(lines[first:])


def _goes_on(line: str) -> bool:
    return line[:1].islower() and not _LIST_ENTRY.match(line)


def broken_answer(row: Row) -> str | None:
    """Return the problem of an answer that begins as JSON but is not, or has an unclosed code block; else None."""
    for text in answers(row):
        stripped = text.strip()
        if text.count("```") % 2:
            return "a code block is opened with ``` and never closed"
        if stripped[:2] in ('{"', "[{", '["') and not _is_json(stripped):
            return f"the answer begins as JSON but is not: …{shorten(stripped[-60:], 60)}"
    return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _encoded(scan: Scan) -> Iterator[tuple[Row, EncodedRow]]:
    """Yield the rows of the sample that could be encoded."""
    for row, encoded in scan.encoded:
        if not isinstance(encoded, TunesmithError):
            yield row, encoded


def _trained_runs(encoded: EncodedRow) -> list[list[int]]:
    """Return the ids of each run of trained tokens."""
    pairs = zip(encoded.input_ids, encoded.trained, strict=True)
    return [[token for token, _ in run] for trained, run in groupby(pairs, key=itemgetter(1)) if trained]


def _trained_result(row: Row, encoded: EncodedRow, scan: Scan) -> str:
    """Return a tool result that is in the trained text more often than in the assistant's messages; else ""."""
    results = [message["content"].strip() for message in row.messages if message["role"] == "tool"]
    if scan.decode is None or not any(results):
        return ""
    trained = "\n".join(map(scan.decode, _trained_runs(encoded)))
    own = "\n".join(str(message) for message in row.messages if message["role"] == "assistant")
    return next((each for each in results if each and trained.count(each) > own.count(each)), "")


TOKEN_CHECKS = (
    Check(
        5,
        "end-not-trained",
        "The end of the answer is not trained",
        "block",
        "The model never learns to stop and talks on until it is cut off.",
        over_all=_once(end_not_trained),
        needs="encoder",
    ),
    Check(
        6,
        "mask-wrong",
        "The wrong tokens are trained",
        "block",
        "Rows in which nothing is trained teach nothing; rows in which the prompt is trained teach asking, and those "
        "in which the result of a tool is trained teach inventing it.",
        over_all=_once(mask_wrong),
        needs="encoder",
    ),
    Check(
        7,
        "template-refused",
        "The model's chat template refuses rows",
        "block",
        "These rows cannot be shown to the model at all.",
        over_all=_once(not_rendered),
        needs="encoder",
    ),
    Check(
        10,
        "too-long",
        "Rows are longer than the model is given",
        "block",
        "A run refuses them unless told to cut them, which teaches answers without their end, or to leave them out.",
        over_all=_once(too_long),
        needs="encoder",
        summary=long_rows,
    ),
    Check(
        10,
        "no-room-for-answers",
        "Prompts fill the whole length",
        "block",
        "However such a row is cut, nothing of its answer is left to learn. Shorten these prompts, raise "
        "data.max_length, or leave the rows out with data.truncation drop.",
        over_all=_once(no_room),
        needs="encoder",
    ),
    Check(
        10,
        "unfinished-answers",
        "Answers stop in the middle",
        "info",
        "The model learns to stop in the middle of a sentence.",
        over_all=unfinished,
        escalate=(0.05, "warn"),
    ),
    Check(
        10,
        "broken-answers",
        "Answers hold JSON or code that is cut off",
        "warn",
        "The model learns to write JSON or code that cannot be read.",
        by_row=broken_answer,
    ),
)
